"""The configurations of block choice and of an engine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from openm3.config.model import ModelConfig
from openm3.config.sparse import SparseConfig
from openm3.errors import InputError

WeightsOption = Literal["auto", "bf16", "packed", "int8"]
ExtendOption = Literal["auto", "none", "ntk", "yarn", "clamped"]

_NEAR_WINDOW = 4096


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How an engine runs a model. Every default works.

    Attributes:
        attention: "dense" reads every block, "sparse" the chosen ones, "auto" what the model was trained for: the
            layers with an index branch read chosen blocks, all others every block.
        sparse: the geometry of blocks; its block size is the page size of a dense engine too. None: that of the model's
            index branch, else the published one (`blocks`).
        attention_mass: each answer reads its own number of blocks, the smallest whose best blocks hold this share of
            the softmax mass of the prompt's last token, on the mean over layers and groups; prompts are read with
            `sparse.index_topk_blocks`, which is also the most. None: answers read that many. For sparse attention; not
            on Triton, in several processes, or with `spill`.
        index: how the keys that blocks are chosen by are scanned: "exact" in the cache's dtype, "int8" in 8 bits with
            bounds, which chooses the same blocks and reads half as much; "auto" is "int8" where it pays.
        index_branch: an index branch for a dense model (`openm3.model.sidecar`): the folder of one, or "none". "auto":
            the one beside the weights, else the one that this package has for them, unless attention is "dense". It
            brings its blocks; other ones of `sparse` take their place.
        dtype: of weights and cache.
        device: "cpu" or "cuda", where weights and cache lie; None: a GPU where there is one that our kernels run on.
        weights: how the matrices of linear layers are held. "bf16" dequantises what a file has quantised. "packed"
            keeps it: a GGUF file's Q4_0, Q4_1 and Q8_0 with the native kernels, which changes no bit of an answer and
            reads a third of the bytes; MXFP8 dequantised at each use: half the memory, several times the work. "int8"
            rounds whatever the file has to 8 bits with a scale for 32 inputs. "auto": "packed" for GGUF files where
            it can be, else "bf16"; `Runner.weights` says which.
        cuda_graphs: on a GPU, record each kind of decode step once and replay it, so that Python launches nothing; one
            process only.
        backend: name of the kernel backend; None chooses the best that is there.
        tensor_parallel: processes that compute the model together, each with its part of weights and cache; on GPUs
            each has one of its own. They are spawned, so a script guards its main part with `__name__ == "__main__"`.
        cache_bytes: memory for keys and values; None: as much as one request of the full window needs,
            and at least 1 GiB. It is reserved at the start and taken as pages are first written.
        spill: keep keys and values in a file, of which `cache_bytes`, less the keys that blocks are chosen by, may be
            in memory. The cache then has room for one request of the full window, or for `spill_bytes` of the file.
            Decoding sparsely reads little of it; dense attention reads all of it at every step. On CPUs.
        spill_dir: folder of that file, which has no name there; None: the platform's cache folder.
        spill_bytes: size of that file; None: as the window needs.
        max_context: longest prompt and answer together, in tokens; None: the model's trained window.
        overflow: what happens to what doesn't fit in the window, or in the cache: "refuse" takes no such prompt, and an
            answer ends there; "compact" drops the least important blocks whenever the window is full, and goes on.
        extend: how positions past the trained window are read, see `openm3.context.extend`: "none" leaves them as they
            are, and the answers get worse; "ntk" and "yarn" stretch the rotary angles, "clamped" reads all blocks far
            from a query at one distance, with chosen blocks only. "auto" is "none" within the trained window, and past
            it "clamped", or "yarn" where attention is dense.
        near_window: tokens before a query that "clamped" reads at their true distance; None: 4,096, or half of the
            trained window where that is less.
        prefix_cache: keep pages that nobody uses any more until their memory is needed, for prompts that begin alike.
        max_running: requests computed at once.
        prefill_chunk: the most tokens of a prompt read in one step. Chunks end at multiples of it, so that where the
            kernels are not invariant load never changes how a prompt is computed.
        max_batch_tokens: tokens computed in one step, all requests together.
        step_ms: how long a step may take while somebody is answering, or twice as long as the answers alone where that
            is more; what is read beside is cut to whole pages that fit, or to quarters of one, one at least. None: 100
            where the kernels compute a token alike in any chunk (native, bfloat16, one process); elsewhere prompts are
            always cut at multiples of `prefill_chunk`, and a time is an error.
        speculation: "lookup" drafts the next tokens of an answer from what followed the same tokens before, in prompt
            and answer, and computes them in one step. The answer is the same: a draft counts as far as it is what is
            sampled, and is as long as pays. "off" drafts nothing; "auto" is "lookup" with kernels as for `step_ms`.
    """

    attention: Literal["auto", "dense", "sparse"] = "auto"
    sparse: SparseConfig | None = None
    attention_mass: float | None = None
    index: Literal["auto", "int8", "exact"] = "auto"
    index_branch: str = "auto"
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    device: Literal["cpu", "cuda"] | None = None
    weights: WeightsOption = "auto"
    cuda_graphs: bool = True
    backend: str | None = None
    tensor_parallel: int = 1
    cache_bytes: int | None = None
    spill: bool = False
    spill_dir: str | None = None
    spill_bytes: int | None = None
    max_context: int | None = None
    overflow: Literal["refuse", "compact"] = "refuse"
    extend: ExtendOption = "auto"
    near_window: int | None = None
    prefix_cache: bool = True
    max_running: int = 64
    prefill_chunk: int = 512
    max_batch_tokens: int = 1024
    step_ms: int | None = None
    speculation: Literal["auto", "lookup", "off"] = "auto"

    def __post_init__(self) -> None:
        if self.attention not in ("auto", "dense", "sparse"):
            raise InputError("attention", f"must be 'auto', 'dense' or 'sparse', got {self.attention!r}")
        if self.index not in ("auto", "int8", "exact"):
            raise InputError("index", f"must be 'auto', 'int8' or 'exact', got {self.index!r}")
        if self.dtype not in ("bfloat16", "float32"):
            raise InputError("dtype", f"must be 'bfloat16' or 'float32', got {self.dtype!r}")
        if self.device not in ("cpu", "cuda", None):
            raise InputError("device", f"must be 'cpu' or 'cuda', got {self.device!r}")
        if self.weights not in get_args(WeightsOption):
            raise InputError("weights", f"must be 'auto', 'bf16', 'packed' or 'int8', got {self.weights!r}")
        if self.overflow not in ("refuse", "compact"):
            raise InputError("overflow", f"must be 'refuse' or 'compact', got {self.overflow!r}")
        if self.speculation not in ("auto", "lookup", "off"):
            raise InputError("speculation", f"must be 'auto', 'lookup' or 'off', got {self.speculation!r}")
        if self.extend not in get_args(ExtendOption):
            raise InputError("extend", f"must be 'auto', 'none', 'ntk', 'yarn' or 'clamped', got {self.extend!r}")
        for name in (
            "tensor_parallel",
            "cache_bytes",
            "spill_bytes",
            "max_context",
            "near_window",
            "max_running",
            "prefill_chunk",
            "max_batch_tokens",
            "step_ms",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(name, f"must be at least 1, got {value}")
        if self.attention_mass is not None:
            if not 0 < self.attention_mass <= 1:
                raise InputError("attention_mass", f"must be more than 0 and at most 1, got {self.attention_mass}")
            if self.attention == "dense":
                raise InputError("attention_mass", "is for sparse attention; set attention to 'sparse'")
            if self.tensor_parallel > 1 or self.spill:
                raise InputError("attention_mass", "is for one process with all keys in memory; leave it out")
        if self.spill and self.cache_bytes is None:
            raise InputError("spill", "needs cache_bytes, the memory that keys and values may take")
        for name in ("spill_dir", "spill_bytes"):
            if getattr(self, name) is not None and not self.spill:
                raise InputError(name, "is for spill, which is off")
        if self.max_batch_tokens < self.prefill_chunk + self.max_running:
            raise InputError(
                "max_batch_tokens",
                f"{self.max_batch_tokens} leaves no room for a chunk of {self.prefill_chunk} beside "
                f"{self.max_running} running requests",
            )

    def for_model(self, model: ModelConfig) -> EngineConfig:
        """The same with what the model decides: its blocks, how it attends and how far where that is "auto".

        Raises:
            InputError: an option that the model leaves no choice about.
        """
        extend = self._extend(model)
        attention, sparse = self.attention, self.sparse
        if model.index is not None:
            if attention == "dense":
                raise InputError("attention", "this model chooses blocks by its index branch; 'dense' is another model")
            if sparse not in (None, model.index.sparse):
                raise InputError("sparse", f"this model was trained with {model.index.sparse}; leave the blocks to it")
            attention, sparse = "sparse", model.index.sparse
        elif attention == "auto":
            attention = "sparse" if extend == "clamped" else "dense"
        elif attention == "dense" and extend == "clamped":
            raise InputError("extend", "'clamped' reads chosen blocks; take attention 'sparse', or extend 'yarn'")
        if self.attention_mass is not None and extend == "clamped":
            raise InputError("attention_mass", "is not for extend 'clamped', which reads all near blocks; leave it out")
        sparse = sparse or self.blocks
        near_window = self._near_window(model, sparse) if extend == "clamped" else None
        if self.near_window is not None and near_window is None:
            raise InputError("near_window", f"is for extend 'clamped', and here it is {extend!r}")
        return replace(self, attention=attention, sparse=sparse, extend=extend, near_window=near_window)

    def _extend(self, model: ModelConfig) -> Literal["none", "ntk", "yarn", "clamped"]:
        if self.extend != "auto":
            return self.extend
        if (self.max_context or 0) <= model.max_position_embeddings:
            return "none"
        return "yarn" if self.attention == "dense" else "clamped"

    def _near_window(self, model: ModelConfig, sparse: SparseConfig) -> int:
        """Whole blocks, which leave room in the trained window for a far block behind them."""
        block, trained = sparse.index_block_size, model.max_position_embeddings
        wanted = self.near_window or max(block, min(_NEAR_WINDOW, trained // 2))
        near_blocks = wanted // block
        if near_blocks < sparse.index_local_blocks or (near_blocks + 1) * block > trained:
            least, most = sparse.index_local_blocks * block, trained - block
            raise InputError("near_window", f"must be from {least} to {most} tokens for this model, got {wanted}")
        return near_blocks * block

    @property
    def blocks(self) -> SparseConfig:
        """`sparse`, or the published sizes where nothing was asked for and no model has decided yet."""
        return self.sparse or SparseConfig()

    @property
    def topk(self) -> int | None:
        """Blocks that a query reads; None where it reads all."""
        if self.attention != "sparse":
            return None
        near = 0 if self.near_window is None else self.near_window // self.blocks.index_block_size
        return near + self.blocks.index_topk_blocks
