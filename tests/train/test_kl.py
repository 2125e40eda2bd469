"""The alignment loss: as its definition, by tiles, and linear in tokens."""

from __future__ import annotations

import pytest
import torch

from openm3.config import SparseConfig
from openm3.kernels.block_mass import WatchedRows
from openm3.kernels.block_mass import block_mass as block_mass_of_pages
from openm3.kernels.paged import PagedBatch
from openm3.train import kl, kl_reference

SPARSE = SparseConfig(index_block_size=16, index_topk_blocks=4, index_init_blocks=1)
POSITIONS = torch.tensor([3, 20, 40, 77, 100, 150, 159])
GROUPS = 3


def case(query_heads: int, key_heads: int, tokens: int = 160) -> list[torch.Tensor]:
    """Queries, keys, index queries, index keys."""
    drawn = torch.Generator().manual_seed(query_heads * 10 + key_heads)
    shapes = [(len(POSITIONS), 9, 16), (GROUPS, tokens, 16), (len(POSITIONS), query_heads, 8), (tokens, key_heads, 8)]
    return [torch.randn(shape, generator=drawn) for shape in shapes]


@pytest.mark.parametrize("query_heads, key_heads", [(3, 1), (3, 3), (6, 3), (9, 1)])
@pytest.mark.parametrize("only_chosen", [False, True])
@pytest.mark.parametrize("target", ["max", "mean"])
def test_loss_and_gradients_are_those_of_whole_matrices(
    query_heads: int, key_heads: int, only_chosen: bool, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kl, "_TILE_ELEMENTS", 3000)  # two rows a tile
    q, k, index_q, index_k = case(query_heads, key_heads)
    learnt = [index_q.requires_grad_(), index_k.requires_grad_()]
    expected = kl_reference.block_kl(q, k, index_q, index_k, POSITIONS, SPARSE, target=target, only_chosen=only_chosen)  # type: ignore[arg-type]
    wanted = torch.autograd.grad(expected, learnt)

    mass_nRGB = kl.block_mass(q, k, POSITIONS, 16)
    scores = kl.block_scores(index_q, index_k, GROUPS, 16)
    candidates = kl.Candidates.of(POSITIONS, 10, SPARSE)
    open_nRB = candidates.open_nB[:, None]
    if only_chosen:
        open_nRB = open_nRB & candidates.chosen(scores.detach(), SPARSE.index_topk_blocks)
    loss = kl.block_kl(mass_nRGB.amax(2) if target == "max" else mass_nRGB.mean(2), scores, open_nRB)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    for found, want in zip(torch.autograd.grad(loss, learnt), wanted, strict=True):
        torch.testing.assert_close(found, want, atol=1e-6, rtol=1e-5)


def test_mass_is_that_of_the_kernel() -> None:
    q, k, *_ = case(3, 1)
    batch = PagedBatch.build([160], [160], [range(10)], 16)
    q_THD = torch.zeros(160, 9, 16).index_copy(0, POSITIONS, q)
    pages = k.unflatten(1, (10, 16)).transpose(0, 1)
    expected = block_mass_of_pages(q_THD, pages, WatchedRows.of(POSITIONS, batch), batch)
    torch.testing.assert_close(kl.block_mass(q, k, POSITIONS, 16).mean(2), expected)


def test_a_query_without_candidates_adds_nothing() -> None:
    mass, scores = torch.ones(1, GROUPS, 4) / 4, torch.randn(1, GROUPS, 4, requires_grad=True)
    loss = kl.block_kl(mass, scores, torch.zeros(1, 1, 4, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert scores.grad is not None and not scores.grad.any()


def test_the_best_scores_recall_everything_and_the_worst_little() -> None:
    q, k, *_ = case(3, 1)
    mass = kl.block_mass(q, k, POSITIONS, 16).mean(2)
    candidates = kl.Candidates.of(POSITIONS, 10, SPARSE)
    assert kl.mass_recall(mass, mass, candidates, 4) == 1
    assert kl.mass_recall(mass, -mass, candidates, 4) < 0.95
    chosen = candidates.chosen(mass, 4)
    assert chosen.sum(-1).unique().tolist() == [1, 2, 3, 4]  # all that are visible, and never more than four
    assert bool(chosen[torch.arange(7), :, POSITIONS // 16].all())


def test_memory_is_linear_in_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kl, "_TILE_ELEMENTS", 1 << 14)
    largest = [0]

    class Largest(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest[0] = max(largest[0], out.numel())
            return out

    num_tokens, drawn = 512, torch.Generator().manual_seed(0)
    q, k = torch.randn(num_tokens, 9, 16, generator=drawn), torch.randn(GROUPS, num_tokens, 16, generator=drawn)
    index_q = torch.randn(num_tokens, 3, 8, generator=drawn, requires_grad=True)
    index_k = torch.randn(num_tokens, 1, 8, generator=drawn, requires_grad=True)
    with Largest():
        mass = kl.block_mass(q, k, torch.arange(num_tokens), 16)
        scores = kl.block_scores(index_q, index_k, GROUPS, 16)
        kl.block_kl(mass.amax(2), scores, mass.amax(2) > 0).backward()
    num_gathered = num_tokens * GROUPS * (num_tokens // 16) * 8
    assert largest[0] <= num_gathered < num_tokens * num_tokens * 9 / 4
