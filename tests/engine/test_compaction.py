"""What happens when a window is full: the laws of compaction, on models that read all blocks and that choose."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.tiny_m3 import write_tiny_m3
from openm3.config import EngineConfig, ModelConfig, SparseConfig
from openm3.context.sources import Passage, SourceMap
from openm3.engine.compaction import Compaction
from openm3.engine.llm import LLM
from openm3.engine.output import Compacted, Completion, Delta, FinishReason, Progress
from openm3.engine.pages import PagePool
from openm3.engine.params import SamplingParams
from openm3.engine.prompt import Prompt
from openm3.engine.request import Request, State
from openm3.engine.scheduler import Scheduler
from openm3.errors import InputError
from openm3.model.rope import rotate_, rotation

PAGE, WINDOW = 16, 256
SPARSE = SparseConfig(index_block_size=PAGE, index_topk_blocks=4)
KINDS = ("dense", "sparse", "m3")


@pytest.fixture(scope="module")
def m3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_m3(tmp_path_factory.mktemp("models") / "m3")


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 250, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def load(kind: str, tiny_model: Path, m3_folder: Path, **changes: Any) -> LLM:
    sizes = {"prefill_chunk": 64, "max_batch_tokens": 96, "max_running": 16, "max_context": WINDOW}
    how = {} if kind == "m3" else {"attention": kind, "sparse": SPARSE}
    return LLM(
        m3_folder if kind == "m3" else tiny_model, EngineConfig(**{**sizes, **how, "overflow": "compact", **changes})
    )


@pytest.fixture(scope="module", params=KINDS)
def llm(request: pytest.FixtureRequest, tiny_model: Path, m3_folder: Path) -> LLM:
    return load(request.param, tiny_model, m3_folder)


def answer(llm: LLM, tokens: list[int] | Prompt, **params: Any) -> Completion:
    [completion] = llm.generate([tokens], SamplingParams(**{"max_tokens": 12, "ignore_eos": True, **params}))
    assert_idle(llm)
    return completion


def assert_idle(llm: LLM) -> None:
    llm.engine.scheduler.check()
    assert llm.engine.scheduler.pool.num_free == llm.engine.scheduler.pool.num_pages


def test_what_fits_is_answered_as_ever(llm: LLM, tiny_model: Path, m3_folder: Path) -> None:
    kind = "m3" if llm.model_config.index else llm.config.attention
    plain = load(kind, tiny_model, m3_folder, overflow="refuse")
    for length in (5, 100, WINDOW - 12):
        assert answer(llm, prompt(length)).token_ids == answer(plain, prompt(length)).token_ids
    assert not answer(llm, prompt(WINDOW - 12)).dropped


def test_a_long_prompt_is_read_to_its_end_and_the_caller_is_told(llm: LLM) -> None:
    request, stream = llm.stream(prompt(900), SamplingParams(max_tokens=80, ignore_eos=True))
    events = list(stream)
    told = [event for event in events if isinstance(event, Compacted)]
    reads = [event.num_read for event in events if isinstance(event, Progress)]
    assert reads == sorted(set(reads))
    assert reads[-1] == 900
    assert sum(isinstance(event, Delta) for event in events) == 80
    spans = sorted((span.start, span.stop) for event in told for span in event.dropped)
    assert sum(stop - start for start, stop in spans) == request.stats().num_dropped
    assert all(a[1] <= b[0] for a, b in pairwise(spans)), "nothing goes twice"
    assert 900 + 80 - request.stats().num_dropped <= WINDOW
    assert spans[0][0] >= PAGE, "the first block stays"
    assert all(event.num_held <= WINDOW * 3 // 4 for event in told)
    assert_idle(llm)


def test_an_answer_goes_on_past_the_window(llm: LLM) -> None:
    completion = answer(llm, prompt(200), max_tokens=300)
    assert len(completion.token_ids) == 300
    assert completion.finish_reason is FinishReason.LENGTH
    assert sum(span.stop - span.start for span in completion.dropped) == completion.stats.num_dropped > 0


def test_kept_keys_are_those_before_turned_to_their_new_positions(llm: LLM) -> None:
    """Also the index keys; the values stay as they are. Known pages keep their bits."""
    request, stream = llm.stream(prompt(600, seed=9), SamplingParams(max_tokens=1))
    while request.num_computed < WINDOW:
        next(stream)
    cache, inv_freq_E = llm.engine.runner.cache, llm.engine.runner.decoder.inv_freq_E
    old = list(request.pages)
    saved = [{n: t[old].clone() for n, t in named(layer)} for layer in cache.layers]
    llm.engine.scheduler.schedule()
    [event] = llm.engine.scheduler.compacted
    llm.engine._copy()
    gone = {page for span in event.dropped for page in range(span.start // PAGE, span.stop // PAGE)}
    kept = [page for page in range(WINDOW // PAGE) if page not in gone]
    assert kept[:1] == [0]
    assert len(kept) == len(request.pages[: len(kept)]) == WINDOW // PAGE * 3 // 4
    for layer, before in zip(cache.layers, saved, strict=True):
        for name, tensor in named(layer):
            assert torch.equal(tensor[old[0]], before[name][0])
            for now, then in enumerate(kept):
                expected = before[name][then].float()
                if not name.startswith("v"):
                    turned = rotation(inv_freq_E, torch.tensor([PAGE * (now - then)]))
                    rotate_(expected.view(1, -1, expected.shape[-1]), turned)
                moved = tensor[request.pages[now]]
                torch.testing.assert_close(moved, expected.to(moved.dtype), atol=0, rtol=0)
            known = [i for i, page in enumerate(old) if page in llm.engine.scheduler.pool._prefixes]
            targets = set(request.pages)
            for i in known:
                if old[i] not in targets:
                    assert torch.equal(tensor[old[i]], before[name][i]), "a known page was altered"
    llm.engine.cancel(request)
    assert_idle(llm)


def named(layer: Any) -> list[tuple[str, torch.Tensor]]:
    return [(n, t) for n in ("k_PRSD", "v_PRSD", "index_k_PXSC") if (t := getattr(layer, n)) is not None]


def test_the_prefix_cache_never_returns_what_was_moved(llm: LLM, tiny_model: Path, m3_folder: Path) -> None:
    kind = "m3" if llm.model_config.index else llm.config.attention
    fresh = load(kind, tiny_model, m3_folder, prefix_cache=False)
    long = prompt(700, seed=1)
    request, stream = llm.stream(long, SamplingParams(max_tokens=20, ignore_eos=True))
    list(stream)
    left = request.tokens(0, request.num_tokens - 20)
    assert len(left) < WINDOW < len(long)
    for tokens in (left[:230], long[:240], long, left[:230] + prompt(5)):
        assert answer(llm, tokens).token_ids == answer(fresh, tokens).token_ids


def test_a_crowd_changes_no_token(llm: LLM) -> None:
    prompts = [prompt(700, seed=2), prompt(40, seed=3), prompt(300, seed=4), prompt(200, seed=5)]
    params = SamplingParams(max_tokens=90, ignore_eos=True)
    together = [completion.token_ids for completion in llm.generate(prompts, params)]
    assert together == [answer(llm, tokens, max_tokens=90).token_ids for tokens in prompts]


def test_canceled_at_every_step(llm: LLM) -> None:
    other = answer(llm, prompt(60, seed=7)).token_ids
    for steps in range(1, 24):
        request = llm.engine.add(prompt(500), SamplingParams(max_tokens=80, ignore_eos=True))
        beside, stream = llm.stream(prompt(60, seed=7), SamplingParams(max_tokens=12, ignore_eos=True))
        for _ in range(steps):
            llm.engine.step()
            llm.engine.scheduler.check()
        llm.engine.cancel(request)
        llm.engine.scheduler.check()
        list(stream)
        assert tuple(beside.output_ids) == other
        assert_idle(llm)


def test_little_memory_preempts_and_everybody_gets_to_the_end(tiny_model: Path, m3_folder: Path) -> None:
    """A preempted request is computed again from what it had kept: what went stays gone."""
    model = ModelConfig.from_folder(tiny_model)
    page_bytes = 2 * model.num_hidden_layers * model.num_key_value_heads * PAGE * model.head_dim * 4
    tight = load("dense", tiny_model, m3_folder, dtype="float32", cache_bytes=12 * page_bytes)
    assert tight.engine.scheduler.pool.num_pages == 12
    requests = [
        tight.engine.add(prompt(40 + 100 * i, seed=i), SamplingParams(max_tokens=150, ignore_eos=True))
        for i in range(4)
    ]
    for _ in range(2000):
        tight.engine.step()
        tight.engine.scheduler.check()
    assert all(len(request.output_ids) == 150 for request in requests)
    assert any(request.num_preempted and request.holes for request in requests)
    assert_idle(tight)


def test_spilled_pages_move_too(tiny_model: Path, m3_folder: Path, tmp_path: Path) -> None:
    """A cache most of which lies in a file gives the same tokens as one in memory."""
    spilled = load("sparse", tiny_model, m3_folder, spill=True, cache_bytes=1 << 16, spill_dir=str(tmp_path))
    whole = load("sparse", tiny_model, m3_folder)
    tokens = prompt(700, seed=6)
    assert answer(spilled, tokens, max_tokens=80).token_ids == answer(whole, tokens, max_tokens=80).token_ids


def test_the_least_important_blocks_go(tiny_model: Path, m3_folder: Path) -> None:
    llm = load("dense", tiny_model, m3_folder)
    request, stream = llm.stream(prompt(500), SamplingParams(max_tokens=1))
    event = next(event for event in stream if isinstance(event, Compacted))
    assert request.importance is not None
    gone = {place // PAGE for span in event.dropped for place in range(span.start, span.stop, PAGE)}
    candidates = range(1, WINDOW // PAGE - WINDOW // 8 // PAGE)
    scores = {block: request.importance.score(block) for block in candidates}
    assert len(gone) == WINDOW // 4 // PAGE
    assert max(scores[block] for block in gone) <= min(scores[block] for block in candidates if block not in gone)
    stream.close()  # type: ignore[attr-defined]
    assert_idle(llm)


def test_dropped_spans_name_files_and_lines(llm: LLM) -> None:
    text = "".join(f"line {i:03}\n" for i in range(1, 100))
    ids = llm.encode(text)
    sources = SourceMap(ids, llm.tokenizer.token_bytes, [Passage(text, path="a.txt")])
    completion = answer(llm, Prompt(ids, sources=sources, tail=20))
    assert len(ids) == 891
    for span in completion.dropped:
        [source] = span.sources
        assert (source.path, source.first_line, source.last_line) == (
            "a.txt",
            span.start // 9 + 1,
            (span.stop - 1) // 9 + 1,
        )
    assert not any(span.stop > 871 for span in completion.dropped), "the question stays"


def test_the_system_prompt_and_the_question_stay(llm: LLM) -> None:
    request, stream = llm.stream(Prompt(prompt(700), head=40, tail=30), SamplingParams(max_tokens=200, ignore_eos=True))
    list(stream)
    assert request.tokens(0, 40) == prompt(700)[:40]
    start, stop = request.tail_positions
    assert request.tokens(start, stop) == prompt(700)[-30:]


def test_what_a_prompt_leaves_out_is_not_read(llm: LLM) -> None:
    tokens = prompt(200)
    left = tokens[:40] + tokens[70:90] + tokens[120:]
    assert answer(llm, Prompt(tokens, dropped=[(40, 70), (90, 120)])).token_ids == answer(llm, left).token_ids
    for dropped in ([(40, 300)], [(50, 40)], [(60, 70), (10, 20)]):
        with pytest.raises(InputError, match="prompt: dropped must be ascending spans within it"):
            llm.engine.add(Prompt(tokens, dropped=dropped), SamplingParams())


def test_nothing_to_drop_is_told_before_anything_is_read(llm: LLM) -> None:
    for head, tail in ((200, 0), (0, 200), (100, 90)):
        with pytest.raises(InputError, match="prompt: nothing can be dropped: .* tokens are always kept"):
            llm.engine.add(Prompt(prompt(700), head=head, tail=tail), SamplingParams(max_tokens=5))
    answer(llm, Prompt(prompt(200), head=200))  # it fits, so nothing needs to go
    assert_idle(llm)


def test_refuse_is_the_default(tiny_model: Path, m3_folder: Path) -> None:
    assert EngineConfig().overflow == "refuse"
    with pytest.raises(InputError, match="overflow: must be 'refuse' or 'compact', got 'drop'"):
        EngineConfig(overflow="drop")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="tokens are 1 too many"):
        load("dense", tiny_model, m3_folder, overflow="refuse").engine.add(prompt(WINDOW), SamplingParams())


@given(st.integers(1, 40), st.integers(0, 300), st.integers(0, 300), st.randoms())
def test_choose_keeps_what_is_protected_and_drops_the_least_important(
    pages: int, head: int, tail: int, random: Any
) -> None:
    compaction = Compaction.of(EngineConfig(sparse=SPARSE), pages * PAGE)
    try:
        compaction.check(head, tail)
    except InputError:
        return
    scores = [random.choice((0.0, 0.5, 1.0)) for _ in range(pages)]
    start = random.randint(0, pages * PAGE)
    position = (start, start + tail)
    dropped = compaction.choose(pages * PAGE, head, position, scores.__getitem__)
    assert len(dropped) == pages - compaction.kept > 0
    assert dropped == sorted(set(dropped))
    for page in dropped:
        assert page > 0
        assert page * PAGE >= head
        assert page < pages - compaction.newest
        assert not tail or page * PAGE >= position[1] or (page + 1) * PAGE <= position[0]


operations = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 300), st.integers(1, 90)),
        st.tuples(st.just("step"), st.just(0), st.just(0)),
        st.tuples(st.just("cancel"), st.integers(0, 99), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=100)
@given(st.integers(10, 24), operations)
def test_random_operations_lose_no_page(num_pages: int, steps: list[tuple[str, int, int]]) -> None:
    config = EngineConfig(sparse=SPARSE, max_running=4, prefill_chunk=32, max_batch_tokens=40)
    compaction = Compaction.of(config, 160)
    on = Scheduler(config, PagePool(num_pages, PAGE))
    accepted: list[Request] = []

    def step() -> bool:
        chunks = on.schedule()
        targets = [copy.target for copy in on.copies]
        assert len(targets) == len(set(targets))
        assert all(any(copy.target in each.pages for each in on.running) for copy in on.copies)
        told = len(on.compacted)
        on.copies.clear()
        on.compacted.clear()
        for chunk in chunks:
            assert chunk.stop <= chunk.request.max_total
            on.commit(chunk.request, chunk.stop)
            if chunk.completes:
                chunk.request.output_ids.append(2)
                if len(chunk.request.output_ids) == chunk.request.max_tokens:
                    on.finish(chunk.request, FinishReason.LENGTH)
        on.check()
        return bool(chunks or told)

    for kind, first, second in steps:
        if kind == "add":
            new = Request(f"r{len(accepted)}", [1] * first, SamplingParams(seed=0), second, compaction=compaction)
            on.add(new)
            accepted.append(new)
        elif kind == "cancel" and accepted:
            on.finish(accepted[first % len(accepted)], FinishReason.CANCELLED)
            on.check()
        elif kind == "step":
            step()
    for _ in range(10_000):
        if all(each.state is State.FINISHED for each in accepted):
            break
        assert step(), "someone waits and nothing is computed"
    assert all(each.state is State.FINISHED for each in accepted)
    assert on.pool.num_free == num_pages
