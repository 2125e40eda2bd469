"""Causal attention over every cached token."""

from openm3.kernels.dense_attention.op import dense_attention

__all__ = ["dense_attention"]
