"""A dense model with an index branch beside it: against a naive model, and the laws that every model keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.branches import FORMS, PAGE, naive_logits, write_branch
from openm3.config import EngineConfig, SparseConfig
from openm3.engine.llm import LLM
from openm3.engine.params import SamplingParams
from openm3.engine.workers import ParallelRunner
from openm3.kernels.backend import BACKENDS
from openm3.kernels.paged import PagedBatch
from openm3.model.batch import Batch

FAST = [name for name in BACKENDS if name not in ("triton", "reference")]
CLAMPED: dict[str, Any] = {"extend": "clamped", "near_window": 2 * PAGE}


@pytest.fixture(scope="module")
def branches(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A sidecar of each form."""
    folder = tmp_path_factory.mktemp("branches")
    return {name: write_branch(tiny_model, folder / name, **form) for name, form in FORMS.items()}


def llm(model: Path, branch: Path | str, **changes: Any) -> LLM:
    sizes = {"prefill_chunk": 32, "max_batch_tokens": 96, "max_running": 16, "dtype": "float32", "cache_bytes": 1 << 22}
    return LLM(model, EngineConfig(**{"index_branch": str(branch), **sizes, **changes}))


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def logits(model: LLM, ids: list[int], step: int = 32) -> Tensor:
    """fp32 `[L, V]` after every token, read in steps, from pages in no order."""
    pages, found = list(range(20))[::-1], []
    for start in range(0, len(ids), step):
        stop = min(start + step, len(ids))
        paged = PagedBatch.build([stop - start], [stop], [pages], PAGE)
        found.append(model.engine.runner.run(Batch(torch.tensor(ids[start:stop]), paged, torch.arange(stop - start))))
    return torch.cat(found)


def tokens(model: LLM, prompts: list[list[int]], length: int = 12) -> list[tuple[int, ...]]:
    answers = model.generate(prompts, SamplingParams(max_tokens=length, ignore_eos=True))
    model.engine.scheduler.check()
    return [answer.token_ids for answer in answers]


@pytest.mark.parametrize("clamped", [False, True], ids=["trained", "clamped"])
@pytest.mark.parametrize("form", FORMS)
def test_equals_the_naive_model(form: str, clamped: bool, tiny_model: Path, branches: dict[str, Path]) -> None:
    """And every backend equals the definition, keys of 8 bits too."""
    ids, options = prompt(150), CLAMPED if clamped else {}
    expected = naive_logits(tiny_model, branches[form], ids, near=2 if clamped else None)
    for backend in ("reference", *FAST):
        model = llm(tiny_model, branches[form], backend=backend, **options)
        torch.testing.assert_close(logits(model, ids), expected, atol=2e-3, rtol=0)
    if "native" in BACKENDS:
        model = llm(tiny_model, branches[form], backend="native", index="int8", **options)
        torch.testing.assert_close(logits(model, ids), expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_a_random_branch_changes_the_answer(
    form: str, tiny_model: Path, branches: dict[str, Path], tmp_path: Path
) -> None:
    """The positive control: what the branch says is what is read."""
    ids = prompt(200)
    other = write_branch(tiny_model, tmp_path / "other", seed=1, **FORMS[form])
    ours = logits(llm(tiny_model, branches[form]), ids)
    blocks = SparseConfig(index_block_size=PAGE, index_topk_blocks=3)
    for changed in (
        llm(tiny_model, other),
        llm(tiny_model, "none", attention="sparse", sparse=blocks),
        llm(tiny_model, "none", sparse=blocks),
    ):
        theirs = logits(changed, ids)
        torch.testing.assert_close(ours[: 3 * PAGE], theirs[: 3 * PAGE], atol=1e-4, rtol=0)  # all is read there
        assert (ours[-50:] - theirs[-50:]).abs().max() > 0.1


@pytest.mark.parametrize("form", ["published", "unrotated", "own-keys-above"])
def test_chunks_crowds_prefixes_drafts_and_files_change_no_token(
    form: str, tiny_model: Path, branches: dict[str, Path], tmp_path: Path
) -> None:
    prompts = [prompt(180), [*prompt(150), *prompt(40, 1)], prompt(60, 2) * 3, prompt(9, 3)]
    options: dict[str, Any] = {"dtype": "bfloat16"} if "native" in BACKENDS else {}
    alone = llm(tiny_model, branches[form], prefix_cache=False, speculation="off", **options)
    expected = [tokens(alone, [ids])[0] for ids in prompts]
    model = llm(tiny_model, branches[form], **options)
    assert tokens(model, prompts) == expected
    assert tokens(model, prompts) == expected  # from the prefix cache
    if options:
        assert tokens(llm(tiny_model, branches[form], prefill_chunk=48, **options), prompts) == expected
        assert tokens(llm(tiny_model, branches[form], index="int8", **options), prompts) == expected
    spilled = llm(tiny_model, branches[form], spill=True, spill_dir=str(tmp_path), cache_bytes=1 << 18, **options)
    assert tokens(spilled, prompts) == expected


@pytest.mark.parametrize("form", ["all-heads", "unrotated"])
def test_a_compacted_context_is_one_that_was_read_there(form: str, tiny_model: Path, branches: dict[str, Path]) -> None:
    """Of one layer, whose keys depend on no token before: so the index keys were turned as they must be."""
    model = llm(tiny_model, branches[form])
    ids = prompt(6 * PAGE)
    logits(model, ids)
    cache, pages = model.engine.runner.cache, list(range(20))[::-1]
    model.engine.runner.shift_pages([pages[3], pages[4]], [-2 * PAGE, -2 * PAGE])
    moved = [cache.layers[0].choosing[pages[page]].clone() for page in (3, 4)]
    logits(model, [*ids[:PAGE], *ids[3 * PAGE :]])
    for page, keys in zip((1, 2), moved, strict=True):
        torch.testing.assert_close(cache.layers[0].choosing[pages[page]], keys, atol=1e-5, rtol=0)


def test_compaction_goes_on_past_the_window(tiny_model: Path, branches: dict[str, Path]) -> None:
    model = llm(tiny_model, branches["unrotated"], max_context=8 * PAGE, overflow="compact")
    [answer] = model.generate([prompt(100)], SamplingParams(max_tokens=80, ignore_eos=True))
    assert len(answer.token_ids) == 80
    assert answer.dropped
    model.engine.scheduler.check()


def test_two_processes_give_the_same_tokens(tiny_model: Path, branches: dict[str, Path]) -> None:
    form = "all-heads"  # of which each process has a half
    prompts = [prompt(180), prompt(20, 1)]
    parts = llm(tiny_model, branches[form], device="cpu", tensor_parallel=2)
    assert tokens(parts, prompts) == tokens(llm(tiny_model, branches[form]), prompts)
    assert isinstance(parts.engine.runner, ParallelRunner)
    parts.engine.runner.workers.close()
