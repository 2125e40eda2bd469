"""Experts: every token goes through a few of many gated networks."""

from openm3.kernels.moe.op import PackedExperts, choose_experts

__all__ = ["PackedExperts", "choose_experts"]
