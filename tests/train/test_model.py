"""The decoder with gradients: against one written out with masks, and against the decoder that answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.naive_decoder import naive
from helpers.tiny import TINY, write_tiny_model
from helpers.tiny_m3 import tiny_m3_config, write_tiny_m3
from openm3.config import ModelConfig, SparseConfig
from openm3.kernels.paged import PagedBatch
from openm3.model.batch import Batch
from openm3.model.cache import KVCache
from openm3.model.weights import load_decoder, open_checkpoint
from openm3.train.experts import TrainableMoE
from openm3.train.model import TrainableDecoder
from openm3.train.packed import NOTHING, Packed
from openm3.train.parameters import fill_from

LENGTHS = (150, 1, 37)  # the first one has 10 blocks of 16, of which 3 are read
BLOCKS = SparseConfig(index_block_size=16, index_topk_blocks=3)
KINDS: dict[str, tuple[dict[str, Any], SparseConfig | None]] = {
    "m3": (tiny_m3_config(), None),
    "llama dense": (TINY, None),
    "llama by own keys": ({**TINY, "tie_word_embeddings": False}, BLOCKS),
}


def decoder_of(kind: str, **kwargs: Any) -> TrainableDecoder:
    """Random weights, loud enough that every part matters."""
    raw, sparse = KINDS[kind]
    torch.manual_seed(0)
    decoder = TrainableDecoder(ModelConfig.from_hf(raw), sparse, **kwargs)
    with torch.no_grad():
        for tensor in decoder.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape) * (0.1 if tensor.ndim == 1 else 0.2))
    return decoder


def packed() -> Packed:
    return Packed(torch.randint(258, (sum(LENGTHS),), generator=torch.Generator().manual_seed(1)), LENGTHS)


@pytest.mark.parametrize("dense", [True, False], ids=["dense", "sparse"])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_all_gradients_are_those_of_masks(kind: str, dense: bool) -> None:
    decoder, tokens = decoder_of(kind), packed()
    losses = decoder(tokens, dense=dense, align=True)
    (losses.nll + losses.kl_L.sum()).backward()
    sparse = decoder.config.index.sparse if decoder.config.index else KINDS[kind][1]
    weights = {name: tensor.detach().clone().requires_grad_() for name, tensor in decoder.state_dict().items()}
    expected = [naive(weights, decoder.config, ids, sparse, dense) for ids in tokens.split(tokens.token_ids_T)]
    nll, kl = sum(each.nll for each in expected), sum(each.kl for each in expected)
    torch.testing.assert_close(losses.nll, nll, rtol=1e-5, atol=0)
    torch.testing.assert_close(losses.kl_L.sum(), kl, rtol=1e-5, atol=1e-6)
    (nll + kl).backward()  # type: ignore[union-attr]
    assert bool(losses.kl_L.any()) == (decoder.config.index is not None)
    for name, parameter in decoder.named_parameters():
        theirs = weights[name].grad
        assert theirs is not None and parameter.grad is not None, name
        scale = float(theirs.abs().max())
        torch.testing.assert_close(parameter.grad, theirs, rtol=0, atol=1e-5 * scale, msg=lambda m, n=name: f"{n}: {m}")


def test_each_loss_reaches_its_own_part_alone() -> None:
    decoder, tokens = decoder_of("m3"), packed()
    for loss, reaches_index in (("nll", False), ("kl_L", True)):
        decoder.zero_grad()
        getattr(decoder(tokens, align=True), loss).sum().backward()
        for name, parameter in decoder.named_parameters():
            reached = parameter.grad is not None and bool(parameter.grad.any())
            assert reached == ((".index_" in name) == reaches_index), name


def test_few_blocks_are_not_all_and_a_sequence_sees_nothing_of_another() -> None:
    decoder, tokens = decoder_of("m3"), packed()
    sparse, dense = decoder(tokens).nll, decoder(tokens, dense=True).nll
    assert abs(sparse - dense) > 1e-2
    alone = [decoder(Packed(ids, (len(ids),))).nll for ids in tokens.split(tokens.token_ids_T)]
    torch.testing.assert_close(torch.stack(alone).sum(), sparse, rtol=1e-5, atol=0)
    assert tokens.targets_T[[149, 150, 187]].tolist() == [NOTHING] * 3
    assert tokens.targets_T[:149].equal(tokens.token_ids_T[1:150])
    assert tokens.positions_T[[0, 149, 150, 151]].tolist() == [0, 149, 0, 0]


def test_recomputing_changes_no_gradient() -> None:
    grads = []
    for recompute in (False, True):
        decoder = decoder_of("m3", recompute=recompute)
        losses = decoder(packed(), align=True)
        (losses.nll + losses.kl_L.sum()).backward()
        grads.append([parameter.grad for parameter in decoder.parameters()])
    assert all(a.equal(b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 2e-4), (torch.bfloat16, 0.15)], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_decoder_that_answers(
    kind: str, dtype: torch.dtype, atol: float, tmp_path: Path
) -> None:
    raw, sparse = KINDS[kind]
    if "text_config" in raw:
        folder = write_tiny_m3(tmp_path / "model", raw)
    else:
        folder = write_tiny_model(tmp_path / "model", **raw)
    checkpoint = open_checkpoint(folder)
    trainable = TrainableDecoder(checkpoint.config, sparse, dtype)
    fill_from(trainable, checkpoint)
    for module in trainable.modules():  # as FSDP gives them
        if type(module).__name__ in ("Linear", "Embedding", "StackedExperts"):
            module.to(dtype)
    ids = packed().token_ids_T[:150]
    with torch.no_grad():
        ours = trainable.logits(trainable.hidden_states(Packed(ids, (150,)), False, False)[0])
    decoder = load_decoder(checkpoint, dtype, sparse=sparse, pack=True)
    cache, paged = KVCache.allocate(decoder.config, 10, 16, dtype), PagedBatch.build([150], [150], [range(10)], 16)
    with torch.inference_mode():
        theirs = decoder(Batch(ids, paged, torch.arange(150)), cache)
    assert _typical(ours - theirs) < atol * _typical(theirs)


def _typical(x: Tensor) -> float:
    """The root of the mean square: in bf16 a token may take another expert or block where two are level."""
    return float(x.pow(2).mean().sqrt())


def test_balance_makes_rare_experts_easier_to_choose() -> None:
    moe = TrainableMoE(ModelConfig.from_hf(tiny_m3_config()))
    torch.manual_seed(0)
    for parameter in moe.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    x_TC = torch.randn(400, 96) + 3 * torch.randn(96)  # much alike, so that few experts are chosen
    before = moe(x_TC, torch.zeros_like(x_TC))[1]
    for _ in range(200):
        moe.balance(moe(x_TC, torch.zeros_like(x_TC))[1], rate=0.01)
    after = moe(x_TC, torch.zeros_like(x_TC))[1]
    assert before.sum() == after.sum() == 400 * 2
    assert before.max() > 300
    assert after.max() < 150
