"""One model in several processes: heads, inner sizes and experts are split, the stream is the same in all of them.

Megatron's way (arXiv 1909.08053): each process computes its heads' share of an attention's output, and its share of a
feed-forward network's, and the shares are summed over all processes before they are added to the stream. The embedding
is in every process, the head and its logits in the first one alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch import distributed as dist

from openm3.config import ModelConfig
from openm3.errors import InputError
from openm3.model.stored import Cut

_TIMEOUT = timedelta(minutes=10)


class Group(Protocol):
    """What `torch.distributed` has of a group of processes, that we use."""

    def allreduce(self, tensors: list[Tensor], /) -> Any:
        """Begins to sum each tensor over all processes, in place; `wait()` of what it returns ends it."""


@dataclass(frozen=True)
class Parallel:
    """A process's place among those that compute together.

    Attributes:
        rank: its number, from 0.
        size: how many they are.
        group: through which they sum.
    """

    rank: int
    size: int
    group: Group

    @classmethod
    def join(cls, rank: int, size: int, meeting: Path, device: torch.device, timeout: timedelta = _TIMEOUT) -> Parallel:
        """Waits for the others: over gloo on CPUs, NCCL on GPUs.

        Args:
            rank, size: of this process.
            meeting: a file that is not there yet, the same for all.
            device: where the model is.
            timeout: of waiting for the others, now and at each sum.

        Raises:
            RuntimeError: the others didn't come in time.
        """
        store = dist.FileStore(str(meeting), size)  # type: ignore[attr-defined]
        if device.type == "cpu":
            return cls(rank, size, cast(Group, dist.ProcessGroupGloo(store, rank, size, timeout)))
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = timeout
        return cls(rank, size, cast(Group, dist.ProcessGroupNCCL(store, rank, size, options)))

    def sum(self, share: Tensor) -> Tensor:
        """The sum of all processes' shares, in place: the same bits in each."""
        self.group.allreduce([share]).wait()
        return share

    def part_of(self, config: ModelConfig) -> ModelConfig:
        """This process's part of a model. Experts and the vocabulary stay whole here, see `experts`."""
        check_split(config, self.size)
        kv_heads = max(1, config.num_key_value_heads // self.size)
        moe, index = config.moe, config.index
        return replace(
            config,
            num_attention_heads=config.num_attention_heads // self.size,
            num_key_value_heads=kv_heads,
            intermediate_size=config.intermediate_size // self.size,
            moe=moe and replace(moe, shared_intermediate_size=moe.shared_intermediate_size // self.size),
            index=index
            and replace(
                index,
                index_n_heads=index.index_n_heads // config.num_key_value_heads * kv_heads,
                index_n_key_heads=min(index.index_n_key_heads, kv_heads),
            ),
        )

    def experts(self, num_experts: int) -> range:
        """The experts of this process."""
        return range(self.rank * num_experts // self.size, (self.rank + 1) * num_experts // self.size)

    def cut(self, part: Sequence[int], whole: Sequence[int]) -> Cut | None:
        """Which part of a checkpoint's tensor is the parameter of this shape here; None where it is all of it.

        Where there are more processes than key/value heads, neighbours have the same head.
        """
        for dim, (mine, all_) in enumerate(zip(part, whole, strict=True)):
            if mine != all_:
                start = self.rank * all_ // self.size // mine * mine
                return Cut(dim, start, start + mine)
        return None


def check_split(config: ModelConfig, size: int) -> None:
    """Whether a model can be split over this many processes.

    Raises:
        InputError: it can't.
    """
    kv_heads = config.num_key_value_heads
    sizes = {"num_attention_heads": config.num_attention_heads, "intermediate_size": config.intermediate_size}
    if config.moe is not None:
        sizes["shared_intermediate_size"] = config.moe.shared_intermediate_size
        if config.moe.num_local_experts < size:
            raise InputError(
                "tensor_parallel", f"{size} is more than the model's {config.moe.num_local_experts} experts"
            )
    for name, value in sizes.items():
        if value % size:
            raise InputError("tensor_parallel", f"{size} does not divide the model's {name}, {value}")
    if kv_heads % size and size % kv_heads:
        raise InputError(
            "tensor_parallel", f"{size} neither divides num_key_value_heads, {kv_heads}, nor is a multiple"
        )
