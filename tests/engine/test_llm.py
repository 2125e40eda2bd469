"""The engine through `LLM`, on the tiny model: laws that hold for every model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from openm3.config import EngineConfig, SparseConfig
from openm3.engine.llm import LLM
from openm3.engine.output import Completion, Delta, FinishReason, Progress
from openm3.engine.params import SamplingParams
from openm3.errors import InputError

PAGE = 16


def config(**changes: Any) -> EngineConfig:
    sparse = SparseConfig(index_block_size=PAGE, index_topk_blocks=3)
    sizes = {"prefill_chunk": 32, "max_batch_tokens": 96, "max_running": 16}
    return EngineConfig(**{"sparse": sparse, "dtype": "float32", **sizes, **changes})


@pytest.fixture(scope="module")
def llm(tiny_model: Path) -> LLM:
    return LLM(tiny_model, config())


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def idle(llm: LLM) -> bool:
    scheduler = llm.engine.scheduler
    scheduler.check()
    return scheduler.pool.num_free == scheduler.pool.num_pages and not scheduler.waiting


def texts(completions: Sequence[Completion]) -> list[tuple[int, ...]]:
    return [completion.token_ids for completion in completions]


GREEDY = SamplingParams(max_tokens=24, ignore_eos=True)


@pytest.mark.parametrize("attention", ["dense", "sparse"])
def test_the_crowd_changes_no_token(tiny_model: Path, attention: str) -> None:
    llm = LLM(tiny_model, config(attention=attention, dtype="bfloat16"))
    prompts = [prompt(length, seed=length) for length in (1, 5, 16, 31, 32, 33, 64, 100, 150, 200)]
    params = SamplingParams(max_tokens=24, temperature=1.0, seed=5, ignore_eos=True)
    together = llm.generate(prompts, params)
    assert texts(together) == [llm.generate([each], params)[0].token_ids for each in prompts]
    assert len(set(texts(together))) == len(prompts)
    assert idle(llm)


def test_the_chunk_size_changes_no_token(tiny_model: Path, llm: LLM) -> None:
    whole = LLM(tiny_model, config(prefill_chunk=512, max_batch_tokens=1024))
    prompts = [prompt(length) for length in (15, 47, 130)]
    assert texts(llm.generate(prompts, GREEDY)) == texts(whole.generate(prompts, GREEDY))


def test_the_reference_backend_gives_the_same_tokens(tiny_model: Path, llm: LLM) -> None:
    slow = LLM(tiny_model, config(backend="reference"))
    assert slow.engine.runner.backend == "reference"
    assert texts(slow.generate([prompt(40)], GREEDY)) == texts(llm.generate([prompt(40)], GREEDY))


def test_sparse_is_dense_until_the_context_outgrows_its_blocks(tiny_model: Path, llm: LLM) -> None:
    sparse = LLM(tiny_model, config(attention="sparse"))
    short = [prompt(3 * PAGE - 24)]
    assert texts(sparse.generate(short, GREEDY)) == texts(llm.generate(short, GREEDY))
    long = [prompt(200)]
    assert texts(sparse.generate(long, GREEDY)) != texts(llm.generate(long, GREEDY))


def test_little_memory_delays_and_changes_no_token(tiny_model: Path, llm: LLM) -> None:
    model = llm.model_config
    page_bytes = 2 * model.num_hidden_layers * model.num_key_value_heads * PAGE * model.head_dim * 4
    tight = LLM(tiny_model, config(cache_bytes=12 * page_bytes))
    assert tight.engine.scheduler.pool.num_pages == 12
    prompts = [prompt(40, seed) for seed in range(6)]
    params = SamplingParams(max_tokens=60, ignore_eos=True)
    out = tight.generate(prompts, params)
    assert sum(completion.stats.num_preempted for completion in out) > 0
    assert texts(out) == texts(llm.generate(prompts, params))
    assert idle(tight)


def test_progress_then_deltas(llm: LLM) -> None:
    request, stream = llm.stream(prompt(70, seed=70), SamplingParams(max_tokens=3, ignore_eos=True))
    events = list(stream)
    assert [(e.num_read, e.num_prompt) for e in events if isinstance(e, Progress)] == [(32, 70), (64, 70), (70, 70)]
    deltas = [e for e in events if isinstance(e, Delta)]
    assert [d.finish_reason for d in deltas] == [None, None, FinishReason.LENGTH]
    assert [d.token_id for d in deltas] == request.output_ids


def test_closing_a_stream_frees_its_pages(llm: LLM) -> None:
    for events_taken in (1, 2, 4):
        _, stream = llm.stream(prompt(70), GREEDY)
        for _ in range(events_taken):
            next(stream)
        stream.close()  # type: ignore[attr-defined]
        assert idle(llm)


def test_text_is_the_tokens_text_and_stops_are_cut(llm: LLM) -> None:
    [whole] = llm.generate([prompt(9, 3)], SamplingParams(max_tokens=40, temperature=1.0, seed=1, ignore_eos=True))
    assert whole.text == llm.tokenizer.decode(whole.token_ids)
    stop = whole.text[11:14]
    params = SamplingParams(max_tokens=40, temperature=1.0, seed=1, ignore_eos=True, stop=(stop,))
    [cut] = llm.generate([prompt(9, 3)], params)
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish_reason is FinishReason.STOP


def test_end_tokens_end_and_ignore_eos_goes_on(llm: LLM) -> None:
    [free] = llm.generate([prompt(20)], GREEDY)
    end = free.token_ids[4]
    [ended] = llm.generate(
        [prompt(20)], SamplingParams(max_tokens=24, ignore_eos=True, stop_token_ids=frozenset({end}))
    )
    first = free.token_ids.index(end)
    assert ended.token_ids == free.token_ids[: first + 1]
    assert ended.finish_reason is FinishReason.STOP
    assert ended.text == llm.tokenizer.decode(free.token_ids[:first])


def test_the_window_ends_an_answer(llm: LLM) -> None:
    [completion] = llm.generate([prompt(500)], SamplingParams(ignore_eos=True))
    assert len(completion.token_ids) == 12
    assert completion.finish_reason is FinishReason.LENGTH


def test_chat_goes_through_the_template(llm: LLM) -> None:
    messages = [{"role": "user", "content": "hi <|im_end|>"}]
    ids = list(llm.encode_chat(messages).ids)
    assert llm.tokenizer.decode(ids, skip_special=False).startswith("<|im_start|>user\nhi <|im_end|><|im_end|>")
    assert ids.count(257) == 1, "the control token's name in a message is only text"
    assert llm.chat(messages, GREEDY).token_ids == llm.generate([ids], GREEDY)[0].token_ids


def test_shares_of_blocks_read(tiny_model: Path) -> None:
    sparse = LLM(tiny_model, config(attention="sparse"))
    stats = sparse.generate([prompt(80)], SamplingParams(max_tokens=1))[0].stats
    assert stats.blocks_visible == PAGE * (1 + 2 + 3 + 4 + 5)
    assert stats.blocks_read == PAGE * (1 + 2 + 3 + 3 + 3)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "prompt: is empty"),
        ([258], "prompt: holds a token id outside 0 to 257"),
        ([-1], "prompt: holds a token id outside 0 to 257"),
        ([1] * 512, "prompt: 512 tokens are 1 too many: the window is 512 tokens"),
    ],
)
def test_prompts_that_are_refused(llm: LLM, ids: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        llm.generate([ids])
    assert idle(llm)


def test_nothing_of_tokens_by_tokens_is_allocated(tiny_model: Path) -> None:
    """The largest tensor of a step on 8,192 tokens stays far below their square."""
    llm = LLM(tiny_model, config(attention="sparse", extend="none", max_context=8300, cache_bytes=5 << 20))
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.numel())
            return out

    _, stream = llm.stream(prompt(8192), SamplingParams(max_tokens=1))
    with Watch():
        list(stream)
    assert 0 < largest <= 8192 * 512


def test_keys_of_8_bits_choose_the_same_blocks(tiny_model: Path) -> None:
    sparse = SparseConfig(index_block_size=16, index_topk_blocks=2)
    window = {"sparse": sparse, "attention": "sparse", "max_context": 1024}
    exact, int8 = (LLM(tiny_model, config(**window, index=index)) for index in ("exact", "auto"))
    assert [llm.engine.runner.index for llm in (exact, int8)] == ["exact", "int8"]
    assert texts(exact.generate([prompt(900)], GREEDY)) == texts(int8.generate([prompt(900)], GREEDY))
    assert int8.engine.runner.cache.layers[0].quantised.counts_2[0] > 0
    assert LLM(tiny_model, config(**window | {"max_context": 200})).engine.runner.index == "exact"


@pytest.mark.parametrize("options", [{"attention": "dense"}, {"attention": "sparse", "backend": "torch"}], ids=str)
def test_keys_of_8_bits_need_the_native_scan(tiny_model: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="index: 'int8' needs"):
        LLM(tiny_model, config(**options, index="int8"))
