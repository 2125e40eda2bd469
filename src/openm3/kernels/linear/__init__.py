"""Matrix products with weights that are laid out once for the machine."""

from openm3.kernels.linear.chain import Chain, Link
from openm3.kernels.linear.grouped import GroupedWeight
from openm3.kernels.linear.mxfp8 import MXFP8Weight
from openm3.kernels.linear.op import PackedLinear, Weight

__all__ = ["Chain", "GroupedWeight", "Link", "MXFP8Weight", "PackedLinear", "Weight"]
