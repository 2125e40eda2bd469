"""Kept contexts: another process goes on as if it had read them, and nothing else is taken for one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers.branches import write_branch
from helpers.tiny import write_tiny_model
from helpers.tiny_m3 import tiny_m3_config, write_tiny_m3
from openm3.config import EngineConfig, SparseConfig
from openm3.context.files import Collection, ContextFile
from openm3.context.store import Store
from openm3.engine import contexts
from openm3.engine.llm import LLM
from openm3.engine.output import Completion
from openm3.engine.params import SamplingParams
from openm3.engine.prompt import Prompt
from openm3.errors import InputError, StoreError

PAGE = 32  # with 2 heads of 16 numbers in bfloat16 a page is 2 KiB, with 64 and 128 numbers a page of the system
TEXT = "".join(f"Line {i} is about {i * i} things.\n" for i in range(12))
FILES = Collection((ContextFile("a.txt", Path("/a.txt"), TEXT),), ())


def llm(folder: Path, **changes: Any) -> LLM:
    sparse = SparseConfig(index_block_size=PAGE, index_topk_blocks=3)
    sizes = {"prefill_chunk": 32, "max_batch_tokens": 96, "max_running": 16, "attention": "sparse", "sparse": sparse}
    return LLM(folder, EngineConfig(**{**sizes, **changes}))


def m3(folder: Path, **changes: Any) -> LLM:
    sizes = {"prefill_chunk": 32, "max_batch_tokens": 96, "max_running": 16}
    return LLM(folder, EngineConfig(**{**sizes, **changes}))


def answer(model: LLM, ids: list[int]) -> Completion:
    [completion] = model.generate([ids], SamplingParams(max_tokens=10, ignore_eos=True))
    model.engine.scheduler.check()
    return completion


def save(model: LLM, store: Store, text: str = TEXT) -> list[int]:
    """Reads a text and keeps it; returns its tokens."""
    ids = model.encode(text)
    answer(model, ids)
    contexts.save(model, store, "one", Prompt(ids), FILES)
    model.engine.scheduler.check()
    return ids


def load(model: LLM, store: Store) -> int:
    with store.open("one") as context:
        found = contexts.load(model, context)
    model.engine.scheduler.check()
    assert model.engine.scheduler.pool.num_free == model.engine.scheduler.pool.num_pages
    return found


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose pages are whole pages of the system, so that they are mapped."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "wide", head_dim=64, num_attention_heads=4)


@pytest.fixture(scope="module")
def tiny_m3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_m3(tmp_path_factory.mktemp("models") / "m3", tiny_m3_config())


@pytest.mark.parametrize("backend", [None, "torch", "reference"])
@pytest.mark.parametrize("which", ["tiny_model", "wide", "tiny_m3"])
def test_a_restart_changes_no_token(
    which: str, backend: str | None, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder, make = request.getfixturevalue(which), m3 if which == "tiny_m3" else llm
    first, store = make(folder, backend=backend), Store(tmp_path)
    ids = save(first, store)
    second = make(folder, backend=backend)
    num_kept = load(second, store)
    page = second.engine.scheduler.pool.page_size
    assert num_kept == len(ids) // page * page
    fresh = make(folder, backend=backend, prefix_cache=False)
    for question in (ids, [*ids[: num_kept - 5], 7, 8], ids + second.encode("What?"), ids[: num_kept + 1]):
        ours, expected = answer(second, question), answer(fresh, question)
        assert ours.token_ids == expected.token_ids
        assert ours.stats.num_cached > len(question) - 2 * 32 - 12
    assert load(second, store) == num_kept, "known already"


def test_keys_in_8_bits_are_made_again(tiny_model: Path, tmp_path: Path) -> None:
    blocks = {"sparse": SparseConfig(index_block_size=16, index_topk_blocks=2)}
    exact, store = llm(tiny_model, index="exact", **blocks), Store(tmp_path)
    if exact.engine.runner.backend != "native":
        pytest.skip("8-bit keys are of the native kernels")
    ids = save(exact, store)
    quantised = llm(tiny_model, index="int8", **blocks)
    load(quantised, store)
    question = ids + exact.encode("What?")
    assert answer(quantised, question).token_ids == answer(exact, question).token_ids
    layer = quantised.engine.runner.cache.layers[0].quantised
    assert layer is not None and layer.counts_2[0] > 0


def test_pages_that_lie_apart_are_kept_in_order(wide: Path, tmp_path: Path) -> None:
    model, store = llm(wide), Store(tmp_path)
    head, ids = model.encode(TEXT)[:PAGE], model.encode(TEXT)
    answer(model, [*head, 1])  # takes the first pages
    answer(model, [5] * (4 * PAGE))
    save(model, store)
    second = llm(wide)
    assert load(second, store) == len(ids) // PAGE * PAGE
    assert answer(second, ids).token_ids == answer(llm(wide), ids).token_ids


def test_what_was_loaded_is_used_again_for_others(wide: Path, tmp_path: Path) -> None:
    """Mapped pages are written to when their turn comes; the file stays as it is."""
    small = {"cache_bytes": 16 * 2 * 2 * 2 * PAGE * 64 * 2}
    first, store = llm(wide), Store(tmp_path)
    ids = save(first, store)
    second = llm(wide, **small)
    load(second, store)
    for seed in (3, 4, 5):
        other = [seed] * (15 * PAGE)
        assert answer(second, other).token_ids == answer(first, other).token_ids
    assert load(second, store)
    assert answer(second, ids).token_ids == answer(first, ids).token_ids


def test_a_longer_text_is_read_on(tiny_model: Path, tmp_path: Path) -> None:
    first, store = llm(tiny_model), Store(tmp_path)
    ids = save(first, store)
    second = llm(tiny_model)
    kept = load(second, store)
    longer = ids + second.encode("Another line at the end.\n" * 3)
    assert answer(second, longer).stats.num_cached >= kept - PAGE
    contexts.save(second, store, "one", Prompt(longer), FILES)
    third = llm(tiny_model)
    assert load(third, store) == len(longer) // PAGE * PAGE > kept
    assert answer(third, longer).token_ids == answer(first, longer).token_ids


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"dtype": "float32"}, "dtype bfloat16 there and float32 here"),
        ({"attention": "dense"}, "attention sparse there and dense here"),
        ({"sparse": SparseConfig(index_block_size=PAGE, index_topk_blocks=4)}, "sparse SparseConfig"),
        ({"sparse": SparseConfig(index_block_size=16, index_topk_blocks=3)}, "sparse SparseConfig"),
        ({"backend": "reference"}, "backend .* there and reference here"),
        ({"extend": "yarn"}, "extend none there and yarn here"),
        ({"extend": "clamped"}, "extend none there and clamped here"),
    ],
)
def test_what_was_read_differently_is_refused(
    changes: dict[str, Any], message: str, tiny_model: Path, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    save(llm(tiny_model), store)
    with pytest.raises(StoreError, match=message):
        load(llm(tiny_model, **changes), store)


def test_angles_that_were_stretched_for_another_window_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    store, longer = Store(tmp_path), {"extend": "yarn", "max_context": 2048}
    save(llm(tiny_model, **longer), store)
    assert load(llm(tiny_model, **longer), store)
    with pytest.raises(StoreError, match="max_context 2048 there and 1024 here"):
        load(llm(tiny_model, **longer | {"max_context": 1024}), store)
    clamped = {"extend": "clamped", "max_context": 2048}
    save(llm(tiny_model, **clamped), Store(tmp_path / "clamped"))
    assert load(llm(tiny_model, **clamped | {"max_context": 1024}), Store(tmp_path / "clamped"))


def test_another_index_branch_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    """Layers above the first read what the branch chose, so their keys depend on it."""
    one, other = (str(write_branch(tiny_model, tmp_path / str(seed), seed=seed)) for seed in (1, 2))
    blocks = {"sparse": SparseConfig(index_block_size=PAGE, index_topk_blocks=3)}
    store = Store(tmp_path)
    ids = save(llm(tiny_model, index_branch=one, **blocks), store)
    again = llm(tiny_model, index_branch=one, **blocks)
    assert load(again, store) == len(ids) // PAGE * PAGE
    assert answer(again, ids).token_ids == answer(llm(tiny_model, index_branch=one, **blocks), ids).token_ids
    for branch in (other, "none"):
        with pytest.raises(StoreError, match="was read differently: index_branch [0-9a-f]{16} there and"):
            load(llm(tiny_model, index_branch=branch, **blocks), store)


def test_another_model_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    """Of the same configuration and the same sizes, with other weights."""
    store = Store(tmp_path)
    save(llm(tiny_model), store)
    other = llm(write_tiny_model(tmp_path / "other", seed=1))
    with pytest.raises(StoreError, match="was read differently: model [0-9a-f]{16} there and [0-9a-f]{16} here$"):
        load(other, store)
    other.engine.scheduler.check()
    assert load(llm(write_tiny_model(tmp_path / "same")), store), "the same weights elsewhere are the same model"


def test_a_damaged_file_leaves_nothing_behind(tiny_model: Path, tmp_path: Path) -> None:
    store = Store(tmp_path)
    ids = save(llm(tiny_model), store)
    path, model = store.path("one"), llm(tiny_model)
    with store.open("one") as context:
        at = context.place("1.v_PRSD")[0] + 5
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"was altered or damaged \(1\.v_PRSD\)"):
        load(model, store)
    model.engine.scheduler.check()
    assert answer(model, ids).stats.num_cached == 0


def test_what_can_not_be_kept(tiny_model: Path, tmp_path: Path) -> None:
    model, store = llm(tiny_model), Store(tmp_path)
    with pytest.raises(InputError, match="of 70 tokens 0 are in the cache as full pages"):
        contexts.save(model, store, "one", Prompt([1] * 70), FILES)
    with pytest.raises(InputError, match="prefix_cache"):
        contexts.save(llm(tiny_model, prefix_cache=False), store, "one", Prompt([1] * 70), FILES)
    assert store.names() == []
    ids = save(model, store)
    page_bytes = 2 * 2 * 2 * PAGE * 16 * 2
    small = llm(tiny_model, cache_bytes=4 * page_bytes)
    with pytest.raises(InputError, match=f"cache_bytes: .* {len(ids) // PAGE * PAGE} tokens and the cache holds 128"):
        load(small, store)
    small.engine.scheduler.check()


def test_running_requests_are_not_harmed(tiny_model: Path, tmp_path: Path) -> None:
    store = Store(tmp_path)
    save(llm(tiny_model), store)
    model, prompt = llm(tiny_model), [9] * 50
    request, events = model.stream(prompt, SamplingParams(max_tokens=20, ignore_eos=True))
    for _ in range(5):
        next(events)
    with store.open("one") as context:
        contexts.load(model, context)
    model.engine.scheduler.check()
    list(events)
    expected = llm(tiny_model).generate([prompt], replace(request.params, max_tokens=20))
    assert tuple(request.output_ids) == expected[0].token_ids
