"""Causal attention over the chosen blocks."""

from openm3.kernels.sparse_attention.op import sparse_attention, sparse_attention_lse

__all__ = ["sparse_attention", "sparse_attention_lse"]
