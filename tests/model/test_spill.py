"""Keys and values in a file: the same tokens as in memory, within a budget, whatever happens to disk and file."""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.tiny import write_tiny_model
from helpers.tiny_m3 import tiny_m3_config, write_tiny_m3
from openm3.config import EngineConfig, SparseConfig
from openm3.context.files import Collection, ContextFile
from openm3.context.store import Store
from openm3.engine import contexts
from openm3.engine.llm import LLM
from openm3.engine.params import SamplingParams
from openm3.engine.prompt import Prompt
from openm3.errors import InputError
from openm3.model.spill import Spill

GREEDY = SamplingParams(max_tokens=12, ignore_eos=True)
FILES = Collection((ContextFile("a.txt", Path("/a.txt"), "text"),), ())


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def llm(folder: Path, tmp_path: Path | None = None, **changes: Any) -> LLM:
    """With a folder for the file: spilled, and with so little memory that every step takes something out."""
    sparse = SparseConfig(index_block_size=16, index_topk_blocks=3)
    sizes = {"prefill_chunk": 32, "max_batch_tokens": 96, "max_running": 16, "attention": "sparse", "sparse": sparse}
    if tmp_path:
        sizes |= {"spill": True, "spill_dir": str(tmp_path), "cache_bytes": 1 << 20}
    return LLM(folder, EngineConfig(**{**sizes, **changes}))


@pytest.fixture(scope="module")
def tiny_m3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_m3(tmp_path_factory.mktemp("models") / "m3", tiny_m3_config())


@pytest.mark.parametrize("backend", [None, "torch", "reference"])
@pytest.mark.parametrize("attention", ["sparse", "dense"])
def test_spilling_changes_no_token(tiny_model: Path, tmp_path: Path, attention: str, backend: str | None) -> None:
    changes = {"attention": attention, "backend": backend}
    here, there = llm(tiny_model, **changes), llm(tiny_model, tmp_path, **changes)
    assert there.engine.runner.spill == tmp_path
    assert here.engine.runner.spill is None
    for residency in [layer.residency for layer in there.engine.runner.cache.layers]:
        assert residency is not None
        residency._spill.budget = 2 * 4096  # so little that every step takes something out
    base = prompt(200)
    for tokens in (base, base, base[:64], base[:97] + prompt(20, seed=1), base[:1]):
        [ours], [expected] = there.generate([tokens], GREEDY), here.generate([tokens], GREEDY)
        assert ours.token_ids == expected.token_ids
        there.engine.scheduler.check()
    assert list(tmp_path.iterdir()) == [], "the file has no name"


def test_m3_spills_all_but_its_index_keys(tiny_m3: Path, tmp_path: Path) -> None:
    sizes = {"prefill_chunk": 32, "max_batch_tokens": 96, "max_running": 16}
    spilling = {"spill": True, "spill_dir": str(tmp_path), "cache_bytes": 1 << 22}
    here, there = LLM(tiny_m3, EngineConfig(**sizes)), LLM(tiny_m3, EngineConfig(**sizes, **spilling))
    [ours], [expected] = (each.generate([prompt(300)], GREEDY) for each in (there, here))
    assert ours.token_ids == expected.token_ids
    layer = there.engine.runner.cache.layers[-1]
    assert layer.residency is not None and layer.index_k_PXSC is not None
    assert layer.residency._size == layer.k_PRSD.nbytes + layer.v_PRSD.nbytes


def test_own_keys_that_every_step_scans_stay(tiny_model: Path, tmp_path: Path) -> None:
    exact = llm(tiny_model, tmp_path, index="exact")
    layer = exact.engine.runner.cache.layers[0]
    assert layer.residency is not None
    assert layer.residency._size == layer.v_PRSD.nbytes
    with pytest.raises(InputError, match="cache_bytes: the keys that blocks are chosen by stay in memory, and"):
        llm(tiny_model, tmp_path, index="exact", cache_bytes=1 << 12)


def test_a_kept_context_goes_to_the_file_and_comes_from_it(tiny_model: Path, tmp_path: Path) -> None:
    store, tokens = Store(tmp_path / "contexts"), prompt(200)
    plain, first = llm(tiny_model), llm(tiny_model, tmp_path)
    first.generate([tokens], GREEDY)
    contexts.save(first, store, "one", Prompt(tokens), FILES)
    for other in (llm(tiny_model), llm(tiny_model, tmp_path)):
        with store.open("one") as context:
            assert contexts.load(other, context) == 192
        other.engine.scheduler.check()
        [ours], [expected] = other.generate([tokens], GREEDY), plain.generate([tokens], GREEDY)
        assert ours.token_ids == expected.token_ids
        assert ours.stats.num_cached == 192


def test_no_room_on_the_disk_is_an_error_at_the_start(tiny_model: Path, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(InputError, match="spill_dir: .* has no room for more than .* GB of keys and values"):
            llm(tiny_model, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_none(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="spill_dir: .*file can't be used: "):
        llm(tiny_model, tmp_path / "file")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"spill": True}, "spill: needs cache_bytes"),
        ({"spill_dir": "/tmp"}, "spill_dir: is for spill, which is off"),
        ({"spill_bytes": 1 << 30}, "spill_bytes: is for spill, which is off"),
        ({"spill": True, "cache_bytes": 1, "spill_bytes": 0}, "spill_bytes: must be at least 1"),
    ],
)
def test_options_that_do_not_go_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EngineConfig(**changes)


def test_the_hottest_pages_stay(tmp_path: Path) -> None:
    """What leaves memory is still in the file; only whole pages of the system leave."""
    spill = Spill(tmp_path, budget=1 << 14)
    residency = spill.layer(num_pages=40)
    tensor = residency.take((40, 3000), torch.uint8)
    tensor[:] = torch.arange(40, dtype=torch.uint8)[:, None]
    residency._heat_P[[3, 17, 39]] = 1
    residency.give_back(keep=9000)
    assert residency.held == 9000
    assert torch.equal(tensor[:, 0], torch.arange(40, dtype=torch.uint8))
    assert torch.equal(tensor[:, 2999], torch.arange(40, dtype=torch.uint8))


_READS = """
import sys
from pathlib import Path
from openm3.config import EngineConfig, SparseConfig
from openm3.engine.llm import LLM
from openm3.engine.params import SamplingParams
spilling = {"spill": True, "spill_dir": sys.argv[2], "cache_bytes": 24 << 20} if sys.argv[2] else {}
sparse = SparseConfig(index_topk_blocks=4)
llm = LLM(Path(sys.argv[1]), EngineConfig(attention="sparse", sparse=sparse, max_context=20_000, **spilling))
def kilobytes(name):
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if name in line)
Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
before = kilobytes("VmRSS")
llm.generate([[i * 7 % 256 for i in range(16_000)]], SamplingParams(max_tokens=4, ignore_eos=True))
print((kilobytes("VmHWM") - before) // 1024, llm.engine.runner.backend)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems decide themselves what is in memory")
def test_memory_stays_within_the_budget(tmp_path: Path) -> None:
    """65 MB of keys and values, 16 MB of bytes beside them; 24 MiB are allowed, and a layer of 8 MB on top."""
    folder = write_tiny_model(tmp_path / "model", num_hidden_layers=8, head_dim=64, num_attention_heads=4,
                              max_position_embeddings=20_000)  # fmt: skip
    peaks = []
    for spill_dir in ("", str(tmp_path)):
        command = [sys.executable, "-c", _READS, str(folder), spill_dir]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        peak, backend = done.stdout.split()
        if backend != "native":
            pytest.skip("8-bit keys are of the native kernels")
        peaks.append(int(peak))
    assert peaks[1] < peaks[0] - 35, peaks
