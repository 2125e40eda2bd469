"""Attention over near blocks at their true distance, and over chosen far blocks at one distance."""

from openm3.kernels.clamped_attention.blocks import far_blocks, near_blocks
from openm3.kernels.clamped_attention.mass import clamped_mass
from openm3.kernels.clamped_attention.op import clamped_attention

__all__ = ["clamped_attention", "clamped_mass", "far_blocks", "near_blocks"]
