"""The configuration of a model, with the field names of the published `config.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from openm3.config.sparse import SparseConfig
from openm3.errors import ModelError

_MAY_BE_ZERO = ("swiglu_beta", "index_rotary_dim")


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """The `llama3` rule that stretches rotary frequencies (`rope_scaling` of Llama 3.1 and later)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, kw_only=True)
class SwigluOAI:
    """The activation (clamp(up) + beta) * gate * sigmoid(alpha * gate), gate at most `limit`, up within ±`limit`."""

    swiglu_alpha: float
    swiglu_beta: float
    swiglu_limit: float


@dataclass(frozen=True, kw_only=True)
class MoEConfig:
    """The layers with experts (M3, arXiv 2606.13392).

    Attributes:
        num_local_experts, num_experts_per_tok: experts of a layer, and how many a token takes.
        expert_intermediate_size: inner size of an expert; `intermediate_size` of the published file.
        shared_intermediate_size: inner size of the expert that every token takes.
        routed_scaling_factor: what the weights of a token's experts add up to.
        moe_layer_freq: for each layer 1 where it has experts, 0 where it has one dense MLP.
    """

    num_local_experts: int
    num_experts_per_tok: int
    expert_intermediate_size: int
    shared_intermediate_size: int
    routed_scaling_factor: float
    moe_layer_freq: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """The index branch: which layers choose blocks, and how (`sparse_attention_config` of the published file).

    The defaults are the published form. All layers with a branch have the same one.

    Attributes:
        index_n_heads: index query heads: one for each key/value head, or as many times that, up to the query heads. A
            block's score is the maximum over the index heads of a group.
        index_head_dim: elements of an index head.
        sparse: blocks and how many of them.
        sparse_attention_freq: for each layer 1 where it chooses by an index branch, else 0: it reads everything then,
            or is one of `own_key_layers`.
        index_n_key_heads: index key heads: one that all groups share, or one for each key/value head.
        use_index_norm: index queries and keys are normed, each head by itself, before the rotation.
        index_rotary_dim: leading elements of an index head that are rotated: a part of the main branch's angles, evenly
            taken (see `Rotation.thinned` in `model/rope.py`). None: all of them; 0: index heads have no position.
        own_key_layers: layers without a branch that choose by the model's own keys.
    """

    index_n_heads: int
    index_head_dim: int
    sparse: SparseConfig
    sparse_attention_freq: tuple[int, ...]
    index_n_key_heads: int = 1
    use_index_norm: bool = True
    index_rotary_dim: int | None = None
    own_key_layers: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder with grouped-query attention, RoPE and RMSNorm: of the Llama family, or M3.

    Field names are those of the published `config.json`; see `from_hf` for what is refused. The defaults of the
    optional fields are the Llama family's.

    Attributes:
        intermediate_size: inner size of a dense MLP; `dense_intermediate_size` of M3's published file.
        rotary_dim: leading elements of a head that are rotated; None rotates all.
        use_gemma_norm: norms scale by 1 + weight.
        use_qk_norm: queries and keys are normed, each head by itself, before the rotation.
        swiglu: the activation's numbers; None is SwiGLU.
        moe: None where every layer has one MLP.
        index: None where every layer reads every block.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    max_position_embeddings: int
    tie_word_embeddings: bool
    rope_scaling: RopeScaling | None = None
    rotary_dim: int | None = None
    use_gemma_norm: bool = False
    use_qk_norm: bool = False
    swiglu: SwigluOAI | None = None
    moe: MoEConfig | None = None
    index: IndexConfig | None = None

    def __post_init__(self) -> None:
        for part in (self, self.swiglu, self.moe, self.index):
            for field in fields(part) if part is not None else ():
                value = getattr(part, field.name)
                if type(value) in (int, float) and value <= 0 and field.name not in _MAY_BE_ZERO:
                    raise ModelError(f"config: {field.name} must be positive, got {value}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ModelError(
                f"config: num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise ModelError(f"config: head_dim {self.head_dim} must be even for rotary positions")
        if self.rotary_dim is not None and (self.rotary_dim % 2 or self.rotary_dim > self.head_dim):
            raise ModelError(f"config: rotary_dim {self.rotary_dim} must be even and at most head_dim {self.head_dim}")
        if self.moe is not None:
            self._check_layers("moe_layer_freq", self.moe.moe_layer_freq)
            if self.moe.num_experts_per_tok > self.moe.num_local_experts:
                raise ModelError(
                    f"config: num_experts_per_tok {self.moe.num_experts_per_tok} is more than "
                    f"num_local_experts {self.moe.num_local_experts}"
                )
        if self.index is not None:
            self._check_index(self.index)

    def has_experts(self, layer: int) -> bool:
        """Whether this layer has experts instead of one MLP."""
        return self.moe is not None and bool(self.moe.moe_layer_freq[layer])

    def has_index(self, layer: int) -> bool:
        """Whether this layer chooses blocks by an index branch of its own."""
        return self.index is not None and bool(self.index.sparse_attention_freq[layer])

    def scans_own_keys(self, layer: int) -> bool:
        """Whether this layer, where it chooses blocks, does so by the model's own keys."""
        return self.index is None or layer in self.index.own_key_layers

    @property
    def index_rotary_dim(self) -> int:
        """Elements of an index head that are rotated."""
        given = None if self.index is None else self.index.index_rotary_dim
        return (self.rotary_dim or self.head_dim) if given is None else given

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any], source: str = "config.json") -> ModelConfig:
        """Reads a published `config.json`, of M3 or of the Llama family.

        A key that is neither understood nor known to change nothing at inference is an error with its
        name: a model is never run without a part that its configuration asks for.

        Raises:
            ModelError: unknown key or architecture, a missing key, or a value that is not supported.
        """
        from openm3.config import llama, m3  # they build this class

        model_type = raw.get("model_type")
        for family in (llama, m3):
            if model_type in family.MODEL_TYPES:
                return family.read(raw, source)
        supported = ", ".join((*llama.MODEL_TYPES, *m3.MODEL_TYPES))
        raise ModelError(f"{source}: model_type {model_type!r} is not supported; supported: {supported}")

    @classmethod
    def from_folder(cls, folder: Path) -> ModelConfig:
        """Reads `config.json` of a folder in the Hugging Face layout."""
        path = folder / "config.json"
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: can't be read as JSON ({error})") from error
        if not isinstance(raw, dict):
            raise ModelError(f"{path}: must hold a JSON object")
        return cls.from_hf(raw, str(path))

    def _check_index(self, index: IndexConfig) -> None:
        self._check_layers("sparse_attention_freq", index.sparse_attention_freq)
        groups, rotated = self.num_key_value_heads, self.rotary_dim or self.head_dim
        if index.index_n_heads % groups or index.index_n_heads > self.num_attention_heads:
            raise ModelError(
                f"config: index_n_heads {index.index_n_heads} must be a multiple of num_key_value_heads {groups}, "
                f"at most num_attention_heads {self.num_attention_heads}"
            )
        if index.index_n_key_heads not in (1, groups):
            raise ModelError(
                f"config: index_n_key_heads {index.index_n_key_heads} must be 1 or num_key_value_heads {groups}"
            )
        if self.index_rotary_dim > index.index_head_dim:
            raise ModelError(
                f"config: index_head_dim {index.index_head_dim} is less than the {self.index_rotary_dim} elements that "
                "are rotated"
            )
        if (part := self.index_rotary_dim) and (part < 0 or part % 2 or rotated % part):
            raise ModelError(
                f"config: index_rotary_dim {self.index_rotary_dim} must be even and divide the {rotated} elements that "
                "the main branch rotates"
            )
        own = list(index.own_key_layers)
        if own != sorted(set(own)) or not set(own) <= set(range(self.num_hidden_layers)):
            raise ModelError(f"config: own_key_layers must be layers of the model in ascending order, got {own}")
        if both := [layer for layer in own if index.sparse_attention_freq[layer]]:
            raise ModelError(f"config: own_key_layers {both} have an index branch by sparse_attention_freq")

    def _check_layers(self, name: str, freq: tuple[int, ...]) -> None:
        if len(freq) != self.num_hidden_layers or not set(freq) <= {0, 1}:
            raise ModelError(
                f"config: {name} must have a 0 or 1 for each of the {self.num_hidden_layers} layers, got {list(freq)}"
            )
