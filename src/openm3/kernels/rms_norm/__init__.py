"""RMSNorm of the fp32 stream, rounded to what the next matrix product takes."""

from openm3.kernels.rms_norm.op import rms_norm

__all__ = ["rms_norm"]
