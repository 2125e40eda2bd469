"""M3's text network against `transformers` on the same random checkpoint: layers, selections, logits, tokens.

The contexts are longer than the blocks that a query reads, so that the selection matters.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MiniMaxM3SparseForConditionalGeneration, MiniMaxM3VLForCausalLM, MiniMaxM3VLTextConfig

from helpers.paged_case import FAST_BACKENDS
from helpers.tiny_m3 import tiny_m3_config, write_tiny_m3
from openm3.config import EngineConfig
from openm3.engine.llm import LLM
from openm3.engine.params import SamplingParams
from openm3.kernels.backend import BACKENDS
from openm3.kernels.paged import PagedBatch
from openm3.model import attention
from openm3.model.batch import Batch
from openm3.model.cache import KVCache
from openm3.model.decoder import Decoder
from openm3.model.names import to_transformers
from openm3.model.weights import load_decoder, open_checkpoint

LENGTH = 200  # 13 blocks of 16, of which 3 are read
NEW_TOKENS = 64
CASES: dict[str, dict[str, Any]] = {
    "published layout": {},
    "dense only": {"sparse": {"sparse_attention_freq": [0, 0, 0], "sparse_disable_index_value": [0, 0, 0]}},
    "all sparse": {"sparse": {"sparse_attention_freq": [1, 1, 1], "sparse_disable_index_value": [1, 1, 1]}},
    "one local block more": {"sparse": {"sparse_local_block": 2}},
    "five blocks of 32": {"sparse": {"sparse_block_size": 32, "sparse_topk_blocks": 5}},
    "top-8 experts": {"num_experts_per_tok": 8},
    "all experts": {"moe_layer_freq": [1, 1, 1]},
    "an initial block": {"sparse": {"sparse_init_block": 1}},
    "whole heads rotated": {"rotary_dim": 16, "head_dim": 16, "partial_rotary_factor": 1.0},
}


@dataclass
class Seen:
    """What one forward pass showed: the stream after every layer, the blocks of every sparse layer, the logits."""

    layers: list[torch.Tensor] = field(default_factory=list)
    blocks: list[torch.Tensor] = field(default_factory=list)
    logits: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    def block_sets(self) -> list[list[set[int]]]:
        """Of every sparse layer, of every query and group."""
        return [[set(row) - {-1} for row in ids.flatten(0, 1).tolist()] for ids in self.blocks]


def run_ours(decoder: Decoder, ids: list[int], patch: pytest.MonkeyPatch, chunks: tuple[int, ...] = ()) -> Seen:
    """Packed, over pages in a mixed order, in chunks that end at these positions."""
    seen, dtype = Seen(), decoder.embed_tokens.weight.dtype
    size = decoder.config.index.sparse.index_block_size if decoder.config.index else 16
    pages = torch.randperm(-(-len(ids) // size), generator=torch.Generator().manual_seed(1)).tolist()
    cache = KVCache.allocate(decoder.config, len(pages), size, dtype)
    select = attention.select_blocks

    def spy(*args: Any, **kwargs: Any) -> torch.Tensor:
        seen.blocks.append(select(*args, **kwargs))
        return seen.blocks[-1]

    patch.setattr(attention, "select_blocks", spy)
    hooks = [
        layer.register_forward_hook(lambda _, __, out: seen.layers.append(out.clone())) for layer in decoder.layers
    ]
    logits, start = [], 0
    with torch.inference_mode():
        for stop in (*chunks, len(ids)):
            paged = PagedBatch.build([stop - start], [stop], [pages], size)
            logits.append(decoder(Batch(torch.tensor(ids[start:stop]), paged, torch.arange(stop - start)), cache))
            start = stop
    seen.logits = torch.cat(logits)
    for hook in hooks:
        hook.remove()
    patch.undo()
    return seen


def run_theirs(model: Any, ids: list[int], init_blocks: int = 0) -> Seen:
    """transformers forgets `sparse_init_block`; where it is set, its own order of blocks is cut anew."""
    seen, hooks = Seen(), []
    for layer in model.model.language_model.layers:
        hooks.append(layer.register_forward_hook(lambda _, __, out: seen.layers.append(out[0].clone())))
        if layer.self_attn.indexer is not None:
            hooks.append(layer.self_attn.indexer.register_forward_hook(_keep_blocks(seen, init_blocks)))
    with torch.inference_mode():
        seen.logits = model(input_ids=torch.tensor([ids])).logits[0].float()
    for hook in hooks:
        hook.remove()
    return seen


def _keep_blocks(seen: Seen, init_blocks: int) -> Any:
    def hook(indexer: Any, _: Any, ranked_1RTb: torch.Tensor) -> torch.Tensor:
        if init_blocks:
            first = (ranked_1RTb >= 0) & (ranked_1RTb < init_blocks)
            own = torch.arange(ranked_1RTb.shape[2])[:, None] // indexer.block_size == ranked_1RTb
            order = (~(first | own)).to(torch.int8).sort(dim=-1, stable=True).indices
            ranked_1RTb = ranked_1RTb.gather(-1, order)[..., : indexer.wanted_blocks]
        seen.blocks.append(ranked_1RTb[0].transpose(0, 1))
        return ranked_1RTb

    return hook


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """transformers reports the vision part, which these checkpoints lack."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def load_theirs(folder: Path, dtype: torch.dtype = torch.float32, init_blocks: int = 0) -> Any:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, info = MiniMaxM3SparseForConditionalGeneration.from_pretrained(
            folder, dtype=dtype, output_loading_info=True, attn_implementation="eager"
        )
    assert all("vision" in name or "projector" in name for name in info["missing_keys"])
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    for layer in model.model.language_model.layers:
        if init_blocks and layer.self_attn.indexer is not None:
            layer.self_attn.indexer.wanted_blocks = layer.self_attn.indexer.topk_blocks
            layer.self_attn.indexer.topk_blocks = 10**6
    return model.eval()


def load_ours(folder: Path, dtype: torch.dtype = torch.float32, backend: str = "torch") -> Decoder:
    return load_decoder(open_checkpoint(folder), dtype, backend=backend, pack=True)


def some_ids(length: int = LENGTH) -> list[int]:
    ids: list[int] = torch.randint(0, 250, (length,), generator=torch.Generator().manual_seed(7)).tolist()
    return ids


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_every_layer_selection_and_logit_in_fp32(
    tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, ids = write_tiny_m3(tmp_path / "m3", tiny_m3_config(**changes)), some_ids()
    init_blocks = changes.get("sparse", {}).get("sparse_init_block", 0)
    theirs = run_theirs(load_theirs(folder, init_blocks=init_blocks), ids, init_blocks)
    decoder = load_ours(folder)
    for chunks in ((), (64, 65, 100)):
        ours = run_ours(decoder, ids, monkeypatch, chunks)
        per_layer = [torch.cat(ours.layers[i :: len(theirs.layers)]) for i in range(len(theirs.layers))]
        for mine, expected in zip(per_layer, theirs.layers, strict=True):
            torch.testing.assert_close(mine, expected, atol=2e-4, rtol=1e-4)
        torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-3, rtol=1e-3)
        if not chunks:
            assert ours.block_sets() == theirs.block_sets()
            assert len(ours.blocks) == len(theirs.blocks)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend(tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, ids = write_tiny_m3(tmp_path / "m3"), some_ids(90)
    expected = run_theirs(load_theirs(folder), ids)
    ours = run_ours(load_ours(folder, backend=backend), ids, monkeypatch)
    torch.testing.assert_close(ours.logits, expected.logits, atol=1e-3, rtol=1e-3)
    assert ours.block_sets() == expected.block_sets()


@pytest.mark.parametrize("backend", FAST_BACKENDS)
def test_bf16_stays_close(tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As close to the fp32 network as transformers' bf16 is: at the median, for a flipped expert or block is luck."""
    folder, ids = write_tiny_m3(tmp_path / "m3", dtype=torch.bfloat16), some_ids()
    exact = run_theirs(load_theirs(folder), ids).logits
    theirs = run_theirs(load_theirs(folder, torch.bfloat16), ids).logits
    ours = run_ours(load_ours(folder, torch.bfloat16, backend), ids, monkeypatch).logits
    assert (ours - exact).abs().median() < 1.05 * (theirs - exact).abs().median()
    assert (ours - exact).abs().mean() < 0.2


@pytest.mark.parametrize("changes", [{}, CASES["all sparse"]], ids=["published layout", "all sparse"])
def test_greedy_tokens_through_the_engine(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder, prompt = write_tiny_m3(tmp_path / "m3", tiny_m3_config(**changes)), some_ids(150)
    llm = LLM(folder, EngineConfig(dtype="float32", max_context=256, prefill_chunk=48, max_batch_tokens=128))
    params = SamplingParams(max_tokens=NEW_TOKENS, ignore_eos=True)
    first, second = llm.generate([prompt, prompt[:70]], params)
    theirs = load_theirs(folder)
    for answer, asked in ((first, prompt), (second, prompt[:70])):
        with torch.inference_mode():
            expected = theirs.generate(
                torch.tensor([asked]), max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False
            )
        assert list(answer.token_ids) == expected[0, len(asked) :].tolist()


def test_another_index_branch_gives_another_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The positive control: were the index branch read by nobody, nothing would change."""
    folder, ids = write_tiny_m3(tmp_path / "m3"), some_ids()
    decoder = load_decoder(open_checkpoint(folder), torch.float32)
    before = run_ours(decoder, ids, monkeypatch).logits
    for name, parameter in decoder.named_parameters():
        if "index_q_proj" in name:
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5))
    after = run_ours(decoder, ids, monkeypatch).logits
    short = 3 * 16  # what is all read, whatever the index branch says
    torch.testing.assert_close(after[:short], before[:short])
    assert (after[short:] - before[short:]).abs().max() > 0.1


@pytest.mark.parametrize(
    "number", ["swiglu_limit", "swiglu_alpha", "swiglu_beta", "routed_scaling_factor", "rope_theta"]
)
def test_every_number_of_the_configuration_matters(
    tmp_path: Path, number: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clamp that is dropped, or a factor that is ignored, would fail here, and so in the comparisons above."""
    raw, other = tiny_m3_config(), tiny_m3_config()
    other["text_config"][number] = 2 * raw["text_config"][number]
    logits = [
        run_ours(load_ours(write_tiny_m3(tmp_path / name, config)), some_ids(60), monkeypatch).logits
        for name, config in (("one", raw), ("two", other))
    ]
    assert (logits[0] - logits[1]).abs().max() > 0.01


def test_ours_reads_what_transformers_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With vision in the published names, and the text network alone in its own, stacked ones."""
    folder, ids = write_tiny_m3(tmp_path / "m3"), some_ids(100)
    theirs = load_theirs(folder)
    expected = run_theirs(theirs, ids).logits
    theirs.save_pretrained(tmp_path / "full", max_shard_size="300KB")
    config = MiniMaxM3VLTextConfig(**theirs.config.text_config.to_dict())
    text = MiniMaxM3VLForCausalLM(config)
    text.model.load_state_dict(theirs.model.language_model.state_dict())
    text.lm_head.load_state_dict(theirs.lm_head.state_dict())
    text.save_pretrained(tmp_path / "text")
    for name in ("full", "text"):
        ours = run_ours(load_ours(tmp_path / name), ids, monkeypatch)
        torch.testing.assert_close(ours.logits, expected, atol=1e-3, rtol=1e-3)


def test_our_parameters_under_the_names_of_transformers(tmp_path: Path) -> None:
    folder = write_tiny_m3(tmp_path / "m3")
    decoder = load_decoder(open_checkpoint(folder), torch.float32)
    theirs = load_theirs(folder)
    text = MiniMaxM3VLForCausalLM(MiniMaxM3VLTextConfig(**theirs.config.text_config.to_dict()))
    text.load_state_dict(to_transformers(dict(decoder.named_parameters())), strict=True)
    for name, parameter in theirs.model.language_model.state_dict().items():
        assert torch.equal(text.model.state_dict()[name], parameter), name
