"""Experts: every token goes through a few of many gated networks."""

from openm3.kernels.moe.op import PackedExperts, Weight, choose_experts

__all__ = ["PackedExperts", "Weight", "choose_experts"]
