"""A model in several processes: the same tokens as in one, and an end in every case."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.tiny import write_tiny_model
from helpers.tiny_m3 import write_tiny_m3
from openm3.config import EngineConfig, SparseConfig
from openm3.engine.llm import LLM
from openm3.engine.params import SamplingParams
from openm3.engine.workers import ParallelRunner
from openm3.errors import InputError, ModelError, OpenM3Error

PARAMS = SamplingParams(max_tokens=12, ignore_eos=True)
PROMPTS = [list(range(3, 203)), list(range(40, 50))]  # of several chunks and blocks, and of one


@pytest.fixture(scope="module")
def m3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_m3(tmp_path_factory.mktemp("parallel") / "m3")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parallel") / "llama"
    return write_tiny_model(folder, num_attention_heads=8, num_key_value_heads=2)


def load(path: Path, size: int) -> LLM:
    config = EngineConfig(dtype="float32", device="cpu", tensor_parallel=size, prefill_chunk=64, cache_bytes=1 << 24)
    return LLM(path, config)


def close(llm: LLM) -> None:
    runner = llm.engine.runner
    assert isinstance(runner, ParallelRunner)
    runner.workers.close()


def tokens(llm: LLM) -> list[tuple[int, ...]]:
    return [answer.token_ids for answer in llm.generate(PROMPTS, PARAMS)]


@pytest.mark.parametrize("size", [2, 4])  # 2 key/value heads: one for each process, and one for two of them
@pytest.mark.parametrize("model", ["m3", "llama"])
def test_the_same_tokens_as_one_process(model: str, size: int, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(model)
    llm = load(path, size)
    assert tokens(llm) == tokens(load(path, 1))
    assert tokens(llm) == tokens(llm)  # from the prefix cache, whose pages are copied in all processes
    close(llm)
    assert not multiprocessing.active_children()


def test_keys_are_moved_in_all_processes(llama: Path) -> None:
    """A compaction drops the oldest blocks there, as one process does that doesn't know what is important."""
    outputs = []
    for size in (2, 1):
        config = EngineConfig(
            sparse=SparseConfig(index_block_size=16), dtype="float32", device="cpu", tensor_parallel=size,
            prefill_chunk=64, cache_bytes=1 << 24, max_context=160, overflow="compact",
        )  # fmt: skip
        llm = LLM(llama, config)
        request = llm.engine.add(PROMPTS[0], SamplingParams(max_tokens=60, ignore_eos=True))
        assert (request.importance is None) == (size == 2)
        request.importance = None
        while request.finish_reason is None:
            llm.engine.step()
        outputs.append((request.output_ids, request.holes.spans))
        if size > 1:
            close(llm)
    assert outputs[0] == outputs[1]
    assert outputs[0][1]


def test_every_process_has_its_part_alone(m3: Path) -> None:
    llm = load(m3, 2)
    decoder, cache = llm.engine.runner.decoder, llm.engine.runner.cache
    assert list(decoder.layers[1].block_sparse_moe.experts) == ["0", "1", "2", "3"]  # type: ignore[union-attr, arg-type]
    assert cache.layers[0].k_PRSD.shape[1] == 1
    close(llm)


def test_a_process_that_dies_is_an_error_and_not_a_hang(llama: Path) -> None:
    llm = load(llama, 2)
    tokens(llm)
    [worker] = multiprocessing.active_children()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(OpenM3Error, match=r"openm3-1 ended with code -9.*load it again"):
        tokens(llm)
    with pytest.raises(OpenM3Error, match="load it again"):
        tokens(llm)
    assert time.monotonic() - started < 20
    assert not multiprocessing.active_children()


def test_a_checkpoint_that_does_not_load_leaves_no_process(llama: Path, tmp_path: Path) -> None:
    broken = write_tiny_model(tmp_path / "broken", num_attention_heads=8, num_key_value_heads=2)
    text = (broken / "config.json").read_text()
    (broken / "config.json").write_text(text.replace('"intermediate_size": 128', '"intermediate_size": 64'))
    with pytest.raises(ModelError, match="has shape"):
        load(broken, 2)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("size", "message"),
    [(3, "3 does not divide the model's num_attention_heads, 8"), (16, "16 is more than the model's 8 experts")],
)
def test_what_can_not_be_split_is_refused(m3: Path, size: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(m3, size)


SCRIPT = """
import signal
import sys
from pathlib import Path
from openm3.config import EngineConfig
from openm3.engine.llm import LLM
from openm3.engine.params import SamplingParams
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    llm = LLM(Path(sys.argv[1]), EngineConfig(dtype="float32", device="cpu", tensor_parallel=2))
    import multiprocessing
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    while True:
        llm.generate([[1, 2, 3]], SamplingParams(max_tokens=200, ignore_eos=True))
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_first(llama: Path, tmp_path: Path, sent: signal.Signals) -> None:
    """Ctrl-C, which the terminal sends to all, and a death without farewell."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, *(["-S"] if sys.flags.no_site else []), script, llama],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as first:
        try:
            assert first.stdout is not None
            worker = int(first.stdout.readline())
            time.sleep(0.5)
            if sent == signal.SIGINT:
                os.killpg(first.pid, sent)
            else:
                first.kill()
            assert first.wait(20) != 0
        finally:
            first.kill()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{worker}").exists()
