"""Attention whose far blocks all stand at one distance (see `openm3.context.extend`).

Letters as in `attention.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from openm3.context.extend import Extension
from openm3.kernels.clamped_attention import clamped_attention, clamped_mass, near_blocks
from openm3.kernels.paged import PagedBatch
from openm3.kernels.rotate import rotate_and_write
from openm3.model import rope
from openm3.model.attention import Attention, head_norms
from openm3.model.batch import Batch
from openm3.model.cache import LayerCache
from openm3.model.rope import Rotation


@dataclass(frozen=True)
class ClampedRotation(Rotation):
    """What clamped attention needs of a batch's positions beside their rotation, the same in every layer.

    Attributes:
        far: the rotation of the keys as far queries see them.
        near_ids_T1M: which blocks are near, see `near_blocks`.
    """

    far: Rotation
    near_ids_T1M: Tensor

    @classmethod
    def of(cls, extension: Extension, inv_freq_E: Tensor, positions_T: Tensor) -> ClampedRotation:
        """At `positions_T`."""
        true, far = (rope.rotation(inv_freq_E, at_T) for at_T in (positions_T, extension.far_positions(positions_T)))
        near_ids_T1M = near_blocks(positions_T, extension.near_blocks, extension.block_size)
        return cls(true.cos_TE, true.sin_TE, far, near_ids_T1M)


class ClampedAttention(Attention):
    """Near blocks at their true distance, chosen far ones at the clamped one; `sparse` says how many of each.

    A far query stands at position 0 and isn't rotated; the keys that it reads are rotated by their place in their
    block, less the clamped distance, and kept beside the true ones (`LayerCache.far_k_PRSD`). Blocks are chosen by far
    queries and keys, or by an index branch, whose keys are kept for far queries alone: near blocks are all read.
    """

    def attend(
        self, projected: Tensor, index_TI: Tensor | None, batch: Batch, cache: LayerCache, rotation: Rotation
    ) -> Tensor:
        assert self.sparse is not None, "clamped distances need chosen blocks"
        assert isinstance(rotation, ClampedRotation), "the decoder makes it so"
        assert cache.far_k_PRSD is not None, "and a cache of far keys"
        paged = batch.paged
        near_q_THD = self._write(projected, paged, cache, rotation)
        far_q_THD = self._write_far(projected, paged, cache, rotation.far)
        index_q_TJC = far_q_THD
        if index_TI is not None:
            index_q_TJC = self._write_index(index_TI, paged, cache, rotation.far, turns_queries=False)
        block_ids_TRN = self._select(index_q_TJC, batch, cache, self.sparse)
        near_ids_T1M = rotation.near_ids_T1M
        mixed_THD, share_TH = clamped_attention(
            near_q_THD,
            far_q_THD,
            cache.k_PRSD,
            cache.far_k_PRSD,
            cache.v_PRSD,
            block_ids_TRN,
            near_ids_T1M,
            paged,
            backend=self.backend,
        )
        for watch in batch.watches:
            assert not watch.probes, "`for_model` refuses what would probe"
            near, far = (near_q_THD, cache.k_PRSD), (far_q_THD, cache.far_k_PRSD)
            args = (near, far, block_ids_TRN, near_ids_T1M, share_TH, watch.rows, paged)
            watch.add(clamped_mass(*args, backend=self.backend))
        if cache.residency is not None:
            cache.residency.settle(block_ids_TRN, paged)
        return mixed_THD.flatten(1)

    def _write_far(self, projected: Tensor, paged: PagedBatch, cache: LayerCache, far: Rotation) -> Tensor:
        """Writes the keys as far queries see them; returns far queries."""
        assert cache.far_k_PRSD is not None
        qk_TXD = projected.unflatten(-1, (-1, self.head_dim))[:, : -self.num_kv_heads]
        return rotate_and_write(
            qk_TXD,
            far.cos_TE,
            far.sin_TE,
            cache.far_k_PRSD,
            None,
            paged,
            norms=head_norms(self.q_norm, self.k_norm) if self.has_qk_norm else None,
            turns_queries=False,
            backend=self.backend,
        )
