"""A dense model's checkpoint and an index branch from beside it, as one checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from openm3.errors import ModelError
from openm3.kernels.linear import GroupedWeight, MXFP8Weight
from openm3.kernels.memory import Take, allocate
from openm3.model.gguf import GGUFCheckpoint
from openm3.model.sidecar import Sidecar
from openm3.model.stored import Cut

if TYPE_CHECKING:
    from openm3.model.weights import SafetensorsCheckpoint


class AlignedCheckpoint:
    """What is asked of it by one of the branch's names comes from the sidecar, all else from the model's own files.

    Attributes:
        base: the dense model's.
        sidecar: the branch.
        path: the dense model's.
        config: of both together.
        stored: every tensor in the files, by its name there.

    Raises:
        ModelError: the branch doesn't fit the model.
    """

    def __init__(self, base: GGUFCheckpoint | SafetensorsCheckpoint, sidecar: Sidecar) -> None:
        self.base, self.sidecar, self.path = base, sidecar, base.path
        self.config = sidecar.check(base.config)
        for name in set(base.names).intersection(sidecar.stored):
            raise ModelError(
                f"{base.path}: has {base.file_name(name)!r} of an index branch itself; take none beside it"
            )
        self.stored = {**base.stored, **{tensor.name: tensor for tensor in sidecar.stored.values()}}

    @property
    def names(self) -> list[str]:
        """Our names of all tensors."""
        return [*self.base.names, *self.sidecar.stored]

    def file_name(self, name: str) -> str:
        """The name in the file of the tensor that holds ours."""
        own = self.sidecar.stored.get(name)
        return self.base.file_name(name) if own is None else own.name

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of our tensor, from the file's header."""
        own = self.sidecar.stored.get(name)
        return self.base.shape(name) if own is None else own.shape

    def packed_bits(self, name: str) -> float | None:
        """As the dense model's checkpoint says it; None for the branch."""
        return None if name in self.sidecar.stored else self.base.packed_bits(name)

    def read(self, name: str, take: Take = allocate, cut: Cut | None = None) -> Tensor:
        """One tensor, or a part of it, as the dense model's checkpoint reads its own."""
        own = self.sidecar.stored.get(name)
        return self.base.read(name, take, cut) if own is None else own.read(take, cut=cut)

    def read_quantised(self, name: str, take: Take = allocate, cut: Cut | None = None) -> GroupedWeight | MXFP8Weight:
        """A tensor of the dense model as it is stored."""
        return self.base.read_quantised(name, take, cut)
