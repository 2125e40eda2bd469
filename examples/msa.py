"""Sparse attention in a model of your own: as simple to call as torch's, with gradients and the alignment loss."""

import torch

from openm3 import msa
from openm3.config import SparseConfig

batch, heads, groups, tokens, size = 1, 8, 2, 1000, 64
q = torch.randn(batch, heads, tokens, size, requires_grad=True)
k, v = (torch.randn(batch, groups, tokens, size, requires_grad=True) for _ in range(2))
index_q = torch.randn(batch, groups, tokens, 32, requires_grad=True)  # one index query head a group
index_k = torch.randn(batch, 1, tokens, 32, requires_grad=True)  # one index key head for all

sparse = SparseConfig(index_block_size=64, index_topk_blocks=4)  # every query reads 256 of 1,000 tokens
out, alignment = msa(q, k, v, index_q, index_k, sparse=sparse, kl="selected")
(out.square().mean() + alignment).backward()

print(f"out {tuple(out.shape)}, alignment loss {alignment.item():.3f}")
print(f"gradients: q {q.grad.norm():.4f}, index_q {index_q.grad.norm():.4f}")
