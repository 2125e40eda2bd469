# Every target makes what it needs; a second run does no work twice.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test postgres chromium bubblewrap ripgrep node lint types format bench asan serve clean

demo: .venv/serve  ## fetch the default model and ask it about this repository's own source
	$(BIN)/openm3 ask --context src/openm3/engine/scheduler.py --context src/openm3/engine/pages.py \
		--max-tokens 120 "What does this program do?"

test: .venv/dev postgres chromium bubblewrap ripgrep node lint types  ## everything that CI runs
	$(BIN)/python -m pytest

postgres:  ## what the tests need beside Python; they start a server of their own
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || \
		(apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends postgresql)

chromium:  ## the browser in which the console is tested
	@command -v chromium >/dev/null || \
		(apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium)

bubblewrap:  ## the sandbox in which agents run code
	@command -v bwrap >/dev/null || \
		(apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends bubblewrap)

ripgrep:  ## what agents search with; without it they search with Python
	@command -v rg >/dev/null || \
		(apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends ripgrep)

node:  ## runs the tests of a project in JavaScript
	@command -v node >/dev/null || \
		(apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends nodejs)

lint: .venv/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/dev
	$(BIN)/mypy

format: .venv/dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: .venv/dev  ## speed of kernels and engine, against llama.cpp when llama-cpp-python is installed
	$(BIN)/python -m benchmarks.kernels
	$(BIN)/python -m benchmarks.engine

asan: .venv/dev  ## the native kernels' tests under AddressSanitizer, in a build of its own
	$(BIN)/python -m pip wheel --quiet --no-deps -Ccmake.define.OPENM3_ASAN=ON -Cbuild-dir=build/asan/cmake --wheel-dir build/asan .
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target build/asan/site build/asan/*.whl
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
		PYTHONPATH=build/asan/site:$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
		$(BIN)/python -S -m pytest -q tests/kernels

serve: .venv/serve  ## the HTTP API on http://127.0.0.1:8000/v1
	$(BIN)/openm3 serve

clean:
	rm -rf .venv

# The stamps say which extra is installed. A machine without an NVIDIA GPU needs only torch's CPU build:
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo
.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/serve: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[serve]'
	touch $@

.venv/dev: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ .venv/serve
