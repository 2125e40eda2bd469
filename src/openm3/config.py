"""The configuration of a model, with the field names of the published `config.json`, and that of an engine."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from openm3.errors import InputError, ModelError

MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """The `llama3` rule that stretches rotary frequencies (`rope_scaling` of Llama 3.1 and later)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder of the Llama family: grouped-query attention, RoPE, RMSNorm, SwiGLU.

    Field names are those of the published `config.json`; see `from_hf` for what is refused.
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

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) in (int, float) and value <= 0:
                raise ModelError(f"config: {field.name} must be positive, got {value}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ModelError(
                f"config: num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise ModelError(f"config: head_dim {self.head_dim} must be even for rotary positions")

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any], source: str = "config.json") -> ModelConfig:
        """Reads a published `config.json`.

        A key that is neither understood nor known to change nothing at inference is an error with its
        name: a model is never run without a part that its configuration asks for.

        Raises:
            ModelError: unknown key or architecture, a missing key, or a value that is not supported.
        """
        config = dict(raw)
        model_type = config.pop("model_type", None)
        if model_type not in _MODEL_TYPES:
            raise ModelError(
                f"{source}: model_type {model_type!r} is not supported; supported: {', '.join(_MODEL_TYPES)}"
            )
        for key in _WITHOUT_EFFECT:
            config.pop(key, None)
        for key, only in _ONLY.items():
            if key in config and (value := config.pop(key)) not in only:
                raise ModelError(f"{source}: {key} = {value!r} is not supported; supported: {only[0]!r}")
        rope = dict(config.pop("rope_parameters", None) or {})  # transformers 5 moved both RoPE fields here
        if "rope_theta" in rope:
            config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = _rope_scaling(config.get("rope_scaling") or rope, source)
        config.setdefault("rope_theta", 10000.0)
        config.setdefault("tie_word_embeddings", False)
        config.setdefault("num_key_value_heads", config.get("num_attention_heads"))
        if config.get("head_dim") is None and "hidden_size" in config and config.get("num_attention_heads"):
            config["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
        known = {field.name: field for field in fields(cls)}
        for key in config:
            if key not in known:
                raise ModelError(f"{source}: unknown key {key!r}{nearest(key, known)}")
        for name, field in known.items():
            if name not in config and field.default is MISSING:
                raise ModelError(f"{source}: key {name!r} is missing")
        for name, value in config.items():
            kinds = {"int": (int,), "float": (int, float), "bool": (bool,)}.get(str(known[name].type))
            if kinds and type(value) not in kinds:
                raise ModelError(f"{source}: {name} must be a number or flag of type {known[name].type}, got {value!r}")
        return cls(**config)

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


# Types whose text network is exactly this decoder. Mistral differs by its sliding window alone, which _ONLY refuses.
_MODEL_TYPES = ("llama", "mistral")

# Keys of published configurations that change nothing in the forward pass of these types.
_WITHOUT_EFFECT = [
    "architectures",
    "auto_map",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "torch_dtype",
    "dtype",
    "transformers_version",
    "use_cache",
    "initializer_range",
    "pretraining_tp",
    "attention_dropout",
    "is_llama_config",
    "rope_interleaved",
    "transformers.js_config",
    "_name_or_path",
    "unsloth_fixed",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "chunk_size_feed_forward",
    "id2label",
    "label2id",
    "problem_type",
    "is_encoder_decoder",
]

# Keys that would change the forward pass, and the values for which they don't; the first is the usual one.
_ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "sliding_window": (None,),
    "partial_rotary_factor": (1.0, None),
    "quantization_config": (None,),
}


def _rope_scaling(raw: Mapping[str, Any], source: str) -> RopeScaling | None:
    values = dict(raw)
    kind = values.pop("rope_type", values.pop("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise ModelError(f"{source}: rope type {kind!r} is not supported; supported: 'default', 'llama3'")
    try:
        return RopeScaling(**values)
    except TypeError as error:
        raise ModelError(f"{source}: rope_scaling: {error}") from error


@dataclass(frozen=True, kw_only=True)
class SparseConfig:
    """Which blocks a query reads, with the names of the published `sparse_attention_config`.

    Attributes:
        index_block_size: tokens in a block, which is also a page of the cache; 16 to 256.
        index_topk_blocks: blocks that every query reads per group of heads, its own block included.
        index_local_blocks: the query's own block and those just before it that are always read.
        index_init_blocks: blocks at the start of the context that are always read.
    """

    index_block_size: int = 128
    index_topk_blocks: int = 16
    index_local_blocks: int = 1
    index_init_blocks: int = 0

    def __post_init__(self) -> None:
        if not 16 <= self.index_block_size <= 256:
            raise InputError("index_block_size", f"must be from 16 to 256, got {self.index_block_size}")
        if self.index_local_blocks < 1:
            raise InputError("index_local_blocks", "must be at least 1: a query always reads its own block")
        if self.index_init_blocks < 0:
            raise InputError("index_init_blocks", f"can't be negative, got {self.index_init_blocks}")
        forced = self.index_local_blocks + self.index_init_blocks
        if self.index_topk_blocks < forced:
            raise InputError(
                "index_topk_blocks", f"{self.index_topk_blocks} is less than the {forced} blocks always read"
            )


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How an engine runs a model. Every default works.

    Attributes:
        attention: "dense" reads every block, "sparse" the chosen ones.
        sparse: the geometry of blocks; its block size is the page size of a dense engine too.
        dtype: of weights and cache.
        device: "cpu" or "cuda", where weights and cache lie; None: a GPU where there is one that our kernels run on.
        backend: name of the kernel backend; None chooses the best that is there.
        cache_bytes: memory for keys and values; None: as much as one request of the full window needs,
            and at least 1 GiB. It is reserved at the start and taken as pages are first written.
        max_context: longest prompt and answer together, in tokens; None: the model's trained window.
        max_running: requests computed at once.
        prefill_chunk: tokens of a prompt read in one step. Chunks start at multiples of it, whatever
            else runs, so that load never changes how a prompt is computed.
        max_batch_tokens: tokens computed in one step, all requests together.
    """

    attention: Literal["dense", "sparse"] = "dense"
    sparse: SparseConfig = SparseConfig()
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    device: Literal["cpu", "cuda"] | None = None
    backend: str | None = None
    cache_bytes: int | None = None
    max_context: int | None = None
    max_running: int = 64
    prefill_chunk: int = 512
    max_batch_tokens: int = 1024

    def __post_init__(self) -> None:
        if self.attention not in ("dense", "sparse"):
            raise InputError("attention", f"must be 'dense' or 'sparse', got {self.attention!r}")
        if self.dtype not in ("bfloat16", "float32"):
            raise InputError("dtype", f"must be 'bfloat16' or 'float32', got {self.dtype!r}")
        if self.device not in ("cpu", "cuda", None):
            raise InputError("device", f"must be 'cpu' or 'cuda', got {self.device!r}")
        for name in ("cache_bytes", "max_context", "max_running", "prefill_chunk", "max_batch_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(name, f"must be at least 1, got {value}")
        if self.max_batch_tokens < self.prefill_chunk + self.max_running:
            raise InputError(
                "max_batch_tokens",
                f"{self.max_batch_tokens} leaves no room for a chunk of {self.prefill_chunk} beside "
                f"{self.max_running} running requests",
            )

    @property
    def topk(self) -> int | None:
        """Blocks that a query reads; None where it reads all."""
        return self.sparse.index_topk_blocks if self.attention == "sparse" else None


def nearest(name: str, known: Mapping[str, Any] | list[str]) -> str:
    """`; did you mean 'x'?` for the known name nearest to a wrong one, or nothing."""
    match = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {match[0]!r}?" if match else ""
