"""What an index branch begins with: the products of the main branch, as well as so few elements can have them.

An index head's query stands for the mean of its query heads. Its first elements are rotated like pairs of the main
branch that have just their angles, so they begin as those pairs. The others are not rotated: they begin as the best
approximation of what the remaining pairs add up to on average over distances. For a query q and a key k of the
main branch, before rotation, that is q' T k with T the mean rotation. Of all maps of keys to F elements the one that
loses least of it, in the mean square over queries and keys, is U' G^(1/2), where G = mean of (T'q)(T'q)', and U has
the first F left singular vectors of G^(1/2) E[kk']^(1/2); queries are mapped by U' G^(-1/2) T'.

Letters: C hidden size, D head size, R groups, G heads a group, M index query heads a group, E rotated pairs of the main
branch, F unrotated elements of an index head, I elements of an index head, X index key heads, K elements of the main
keys that an index key head stands for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openm3.config import ModelConfig
from openm3.config.model import IndexConfig
from openm3.model.rope import inverse_frequencies

_DISTANCES = 4096


def begin(
    q_HDC: Tensor, k_RDC: Tensor, moment_CC: Tensor, model: ModelConfig, index: IndexConfig, window: int
) -> tuple[Tensor, Tensor]:
    """The weights of index queries `[J * I, C]` and index keys `[X * I, C]`, fp32.

    Args:
        q_HDC, k_RDC: the main branch's weights of queries and keys, fp32.
        moment_CC: the mean of x x' over the layer's inputs x.
        model: the model's configuration.
        index: the form of the branch.
        window: the longest distance.
    """
    num_groups, heads = len(k_RDC), index.index_n_heads // len(k_RDC)
    parts = q_HDC.unflatten(0, (num_groups, -1)).tensor_split(heads, dim=1)
    q_RMDC = torch.stack([part.mean(1) for part in parts], dim=1)
    pairs = model.index_rotary_dim // 2
    num_pairs = (model.rotary_dim or model.head_dim) // 2
    kept = torch.arange(0, num_pairs, num_pairs // pairs) if pairs else torch.arange(0)
    rotated = torch.cat((kept, kept + num_pairs))
    rest_DD = _mean_rotation(model, kept, window).to(q_HDC.device)
    index_q, index_k = [], []
    for groups in torch.arange(num_groups).chunk(index.index_n_key_heads):
        plain_q, plain_k = _best(q_RMDC[groups], k_RDC[groups], moment_CC, rest_DD, index.index_head_dim - len(rotated))
        q_rMIC = torch.cat((q_RMDC[groups][:, :, rotated], plain_q), dim=2)
        k_IC = torch.cat((k_RDC[groups][:, rotated].mean(0), plain_k))
        # Queries and keys of an element may be scaled against each other; alike they learn alike.
        scale_I1 = (q_rMIC.square().mean((0, 1, 3)) / k_IC.square().mean(1).clamp_min(1e-20)).pow(0.25)[:, None]
        scale_I1 = torch.where(scale_I1 > 0, scale_I1, 1)
        index_q.append(q_rMIC / scale_I1)
        index_k.append(k_IC * scale_I1)
    # The softmax divides by the root of the head size.
    grow = (index.index_head_dim / model.head_dim) ** 0.25
    return torch.cat(index_q).flatten(0, 2) * grow, torch.cat(index_k) * grow


def _mean_rotation(model: ModelConfig, kept: Tensor, window: int) -> Tensor:
    """fp32 `[D, D]`: q' times it times k is the product of what is not `kept`, the mean over distances."""
    angle_dE = torch.linspace(1, window, _DISTANCES).double()[:, None] * inverse_frequencies(model).double()
    num_pairs = angle_dE.shape[1]
    cos_E, sin_E = angle_dE.cos().mean(0).float(), angle_dE.sin().mean(0).float()
    cos_E[kept], sin_E[kept] = 0, 0
    mean_DD = torch.eye(model.head_dim)
    i = torch.arange(num_pairs)
    mean_DD[i, i] = mean_DD[i + num_pairs, i + num_pairs] = cos_E
    mean_DD[i, i + num_pairs], mean_DD[i + num_pairs, i] = sin_E, -sin_E
    return mean_DD


def _best(q_rMDC: Tensor, k_rDC: Tensor, moment_CC: Tensor, rest_DD: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Queries `[r, M, F, C]` and the one key head `[F, C]` for them, of F = `size` elements."""
    num_groups, head_size = k_rDC.shape[:2]
    k_KC = k_rDC.flatten(0, 1)
    turned_rMDC = rest_DD.T @ q_rMDC
    moments_rDD = (turned_rMDC @ moment_CC @ turned_rMDC.mT).mean(1)
    root_KK, inverse_KK = _roots(torch.block_diag(*moments_rDD))
    keys_KK, _ = _roots(k_KC @ moment_CC @ k_KC.T)
    best_KF = torch.linalg.svd(root_KK @ keys_KK)[0][:, :size]
    missing = size - best_KF.shape[1]  # more elements than the main keys have stay zero
    back_rDF = (inverse_KK @ best_KF).unflatten(0, (num_groups, head_size))
    plain_q = back_rDF.mT[:, None] @ turned_rMDC
    plain_k = best_KF.T @ root_KK @ k_KC
    return torch.nn.functional.pad(plain_q, (0, 0, 0, missing)), torch.nn.functional.pad(plain_k, (0, 0, 0, missing))


def _roots(x_KK: Tensor) -> tuple[Tensor, Tensor]:
    """The square root of a symmetric matrix without negative eigenvalues, and its inverse where there is one."""
    values_K, vectors_KK = torch.linalg.eigh(x_KK.double())
    root_K = values_K.clamp_min(float(values_K.max()) * 1e-8).sqrt()
    return ((vectors_KK * root_K) @ vectors_KK.T).float(), ((vectors_KK / root_K) @ vectors_KK.T).float()
