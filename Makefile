# Every target makes what it needs; a second run does no work twice.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test programs lint types format bench asan serve clean

demo: .venv/serve  ## fetch the default model and ask it about this repository's own source
	$(BIN)/openm3 ask --context src/openm3/engine/scheduler.py --context src/openm3/engine/pages.py \
		--max-tokens 120 "What does this program do?"

# A worker for each core, with one thread of torch in each; who is done first takes half of what the other has left.
test: .venv/dev programs lint types  ## everything that CI runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal

# What the tests need beside Python, as PROGRAM:PACKAGE. PostgreSQL for servers of their own, the browser of the console,
# the sandbox in which agents run code, what they search with (without it Python searches), and what runs JavaScript's
# tests.
PROGRAMS := initdb:postgresql chromium:chromium bwrap:bubblewrap rg:ripgrep node:nodejs

programs:  ## what the tests need beside Python
	@missing=; PATH="$$PATH:$$(echo /usr/lib/postgresql/*/bin | tr ' ' :)"; \
	for each in $(PROGRAMS); do command -v $${each%:*} >/dev/null || missing="$$missing $${each#*:}"; done; \
	test -z "$$missing" || { apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing; }

lint: .venv/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/dev
	$(BIN)/mypy --num-workers auto

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

# openm3 is there by then: this adds what `dev` names, and builds nothing a second time.
.venv/dev: .venv/serve
	$(BIN)/python -m pip install --quiet 'openm3[dev]'
	touch $@
