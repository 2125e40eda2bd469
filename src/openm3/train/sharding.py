"""Processes that train one model together: FSDP2 of torch, which is the one way for a single process too.

Each process has a part of every parameter, of its gradient and of the optimiser's numbers, in fp32. A layer's
parameters are gathered in the dtype of products before the layer computes; those of norms and routers stay fp32.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from openm3.model.norm import RMSNorm
from openm3.train.experts import Router
from openm3.train.model import TrainableDecoder


@dataclass(frozen=True)
class Group:
    """The processes that train together.

    Attributes:
        rank, size: which of how many this one is.
        device: what it computes on.
        mesh: all of them in a row.
    """

    rank: int
    size: int
    device: torch.device
    mesh: DeviceMesh

    def sum(self, x: Tensor) -> Tensor:
        """The sum over the processes, in place."""
        dist.all_reduce(x)
        return x

    def any(self, flag: bool) -> bool:
        """Whether it is set in any process."""
        return bool(self.sum(torch.tensor(int(flag), device=self.device)))


@contextmanager
def joined(device: str) -> Iterator[Group]:
    """The group that torchrun has started this process in, or of this process alone.

    Args:
        device: "cpu" (gloo) or "cuda" (NCCL), with a GPU for each process of a machine.
    """
    backend = "nccl" if device == "cuda" else "gloo"
    where = torch.device(device)
    if device == "cuda":
        where = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(where)
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    try:
        size = dist.get_world_size()
        yield Group(dist.get_rank(), size, where, init_device_mesh(device, (size,)))
    finally:
        dist.destroy_process_group()


def shard(decoder: TrainableDecoder, group: Group) -> TrainableDecoder:
    """Cuts a decoder whose parameters have no memory yet, and gives this process's part of them some."""
    exact = MixedPrecisionPolicy()
    mixed = MixedPrecisionPolicy(
        param_dtype=decoder.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False, output_dtype=None
    )
    for layer in decoder.layers:
        in_fp32: list[nn.Module] = [m for m in layer.modules() if isinstance(m, (RMSNorm, Router))]
        fully_shard(in_fp32, mesh=group.mesh, mp_policy=exact)
        fully_shard(layer, mesh=group.mesh, mp_policy=mixed)
    fully_shard(decoder.norm, mesh=group.mesh, mp_policy=exact)
    fully_shard(decoder, mesh=group.mesh, mp_policy=mixed)
    return decoder.to_empty(device=group.device)


def part_like(full: Tensor, like: Tensor) -> Tensor:
    """This process's part of a tensor that all have, cut as `like` is, and of its dtype."""
    full = full.to(like.device, like.dtype)
    if not isinstance(like, DTensor):
        return full
    return distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None)


def whole(x: Tensor) -> Tensor:
    """All parts of a tensor; every process asks for it at once."""
    return x.full_tensor() if isinstance(x, DTensor) else x
