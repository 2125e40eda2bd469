"""The names of M3's tensors: published, of transformers, and ours.

Our parameters have the published names without the prefix of the text network. The layers of transformers' own
checkpoints differ as the tables say: some names, and several published tensors stacked into one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from openm3.config import ModelConfig

# What stands before the text network's names: published; transformers with vision; Llama and transformers without.
PREFIXES = ("language_model.model.", "model.language_model.", "model.", "language_model.")

# Published tensors that the text network does not have, as regular expressions, and why they are left out.
SKIPPED = {
    r"(^|\.)mtp\.": "multi-token prediction, which published checkpoints don't use",
    r"^(model\.)?(vision_tower|multi_modal_projector|patch_merge_mlp)\.": "the vision part, which is loaded by itself",
    r"\.rotary_emb\.inv_freq$": "computed from the configuration",
}

# Ours -> transformers', N being the layer: one tensor with another name.
RENAMED = {
    "layers.N.self_attn.index_q_proj.weight": "layers.N.self_attn.indexer.q_proj.weight",
    "layers.N.self_attn.index_k_proj.weight": "layers.N.self_attn.indexer.k_proj.weight",
    "layers.N.self_attn.index_q_norm.weight": "layers.N.self_attn.indexer.q_norm.weight",
    "layers.N.self_attn.index_k_norm.weight": "layers.N.self_attn.indexer.k_norm.weight",
    "layers.N.block_sparse_moe.gate.weight": "layers.N.mlp.gate.weight",
    "layers.N.block_sparse_moe.e_score_correction_bias": "layers.N.mlp.gate.e_score_correction_bias",
    "layers.N.block_sparse_moe.shared_experts.down_proj.weight": "layers.N.mlp.shared_experts.down_proj.weight",
}

# transformers' -> ours: tensors one after the other in the first dimension.
STACKED = {
    "layers.N.mlp.gate_up_proj.weight": ("layers.N.mlp.gate_proj.weight", "layers.N.mlp.up_proj.weight"),
    "layers.N.mlp.shared_experts.gate_up_proj.weight": (
        "layers.N.block_sparse_moe.shared_experts.gate_proj.weight",
        "layers.N.block_sparse_moe.shared_experts.up_proj.weight",
    ),
}

# transformers' -> ours: the same, behind a first dimension of experts E.
STACKED_EXPERTS = {
    "layers.N.mlp.experts.gate_up_proj": (
        "layers.N.block_sparse_moe.experts.E.w1.weight",
        "layers.N.block_sparse_moe.experts.E.w3.weight",
    ),
    "layers.N.mlp.experts.down_proj": ("layers.N.block_sparse_moe.experts.E.w2.weight",),
}

# What follows a quantised tensor's name in the name of its scales (MXFP8).
SCALE_SUFFIXES = ("_scale_inv", "_scale")


@dataclass(frozen=True)
class Source:
    """Where a parameter lies: a tensor of the file, or a part of it.

    Attributes:
        name: of the tensor in the file.
        scale: name of its scales where it is quantised.
        expert: the row of the first dimension; None takes all.
        part, parts: which of how many equal parts of the first dimension behind that.
    """

    name: str
    scale: str | None = None
    expert: int | None = None
    part: int = 0
    parts: int = 1

    def first(self, shape: tuple[int, ...]) -> int:
        """How many values of a file's tensor of this shape lie before the parameter."""
        return (self.expert or 0) * math.prod(shape[1:]) + self.part * math.prod(self.cut_shape(shape))

    def cut_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the parameter in a file's tensor of this shape."""
        rows = shape if self.expert is None else shape[1:]
        return rows if self.parts == 1 else (rows[0] // self.parts, *rows[1:])


def why_skipped(name: str) -> str | None:
    """Why a tensor is not the text network's, or None."""
    return next((reason for rule, reason in SKIPPED.items() if re.search(rule, name)), None)


def sources(file_names: Iterable[str], config: ModelConfig) -> dict[str, Source]:
    """Our parameters in a file with these tensors. Names that the tables don't know stay as they are."""
    names = set(file_names)
    scale_of = {_scaled(name): name for name in names if name.endswith(SCALE_SUFFIXES)}
    num_experts = config.moe.num_local_experts if config.moe is not None else 0
    renamed = {theirs: ours for ours, theirs in RENAMED.items()}
    found = {}
    for name in sorted(names):
        if why_skipped(name) or (name.endswith(SCALE_SUFFIXES) and _scaled(name) in names):
            continue
        stripped = _strip(name)
        layer, pattern = _pattern(stripped)
        if config.swiglu is None or not (pattern in renamed or pattern in STACKED or pattern in STACKED_EXPERTS):
            found[stripped] = Source(name, scale_of.get(name))
        elif pattern in renamed:
            found[renamed[pattern].replace("N", layer, 1)] = Source(name, scale_of.get(name))
        else:
            parts = STACKED.get(pattern) or STACKED_EXPERTS[pattern]
            for i, ours in enumerate(parts):
                for e in range(num_experts) if pattern in STACKED_EXPERTS else (None,):
                    filled = ours.replace("N", layer, 1).replace(".E.", f".{e}.")
                    found[filled] = Source(name, expert=e, part=i, parts=len(parts))
    return found


def to_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our parameters, of a text network, under the names and in the stacks of `MiniMaxM3VLForCausalLM`."""
    stacks = {
        ours: (theirs, i) for theirs, parts in (STACKED | STACKED_EXPERTS).items() for i, ours in enumerate(parts)
    }
    plain: dict[str, Tensor] = {}
    stacked: dict[str, dict[tuple[int, int], Tensor]] = {}
    for name, tensor in tensors.items():
        layer, pattern = _pattern(name)
        expert = re.search(r"\.experts\.(\d+)\.", pattern)
        pattern = re.sub(r"\.experts\.\d+\.", ".experts.E.", pattern)
        prefix = "" if name.startswith("lm_head") else "model."
        if pattern in stacks:
            theirs, i = stacks[pattern]
            place = (int(expert[1]) if expert else -1, i)
            stacked.setdefault(prefix + theirs.replace("N", layer, 1), {})[place] = tensor
        else:
            plain[prefix + RENAMED.get(pattern, pattern).replace("N", layer, 1)] = tensor
    for theirs, places in stacked.items():
        rows = [torch.cat([places[place] for place in sorted(places) if place[0] == e]) for e, i in places if i == 0]
        plain[theirs] = rows[0] if (-1, 0) in places else torch.stack(rows)
    return plain


def _strip(name: str) -> str:
    prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), "")
    return name.removeprefix(prefix)


def _scaled(scale_name: str) -> str:
    suffix = next(suffix for suffix in SCALE_SUFFIXES if scale_name.endswith(suffix))
    return scale_name.removesuffix(suffix)


def _pattern(name: str) -> tuple[str, str]:
    """The layer's number and the name with N in its place."""
    match = re.match(r"layers\.(\d+)\.", name)
    return (match[1], f"layers.N.{name[match.end() :]}") if match else ("N", name)
