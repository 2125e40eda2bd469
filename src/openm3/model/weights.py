"""Checkpoints in the Hugging Face layout, and the strict loader that fills a decoder from any checkpoint."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from openm3.config import ModelConfig, SparseConfig, WeightsOption, nearest
from openm3.context.extend import Extension
from openm3.errors import InputError, ModelError
from openm3.kernels.linear import GroupedWeight, MXFP8Weight, Weight
from openm3.kernels.linear.grouped import GROUP, PACKED_BITS, quantise
from openm3.kernels.linear.mxfp8 import BITS as MXFP8_BITS
from openm3.kernels.linear.mxfp8 import BLOCK
from openm3.kernels.memory import Memory, Take, allocate
from openm3.model.aligned import AlignedCheckpoint
from openm3.model.decoder import Decoder, collector_paused, empty_decoder
from openm3.model.gguf import GGUFCheckpoint
from openm3.model.linear import FusedLinear
from openm3.model.names import SCALE_SUFFIXES, Source, sources
from openm3.model.parallel import Parallel
from openm3.model.stored import Cut, StoredTensor, as_dtype, read_header

_INDEX = "model.safetensors.index.json"
_TOGETHER = 16  # linears that a thread packs before it asks for more
_NVFP4_SUFFIXES = ("weight_packed", "weight_global_scale", "weight_scale_2")


class SafetensorsCheckpoint:
    """A folder with `config.json` and safetensors files, one or sharded. Opening it reads no weights.

    Attributes:
        path: the folder.
        config: the model's configuration.
        stored: every tensor in the files, by its name there.

    Raises:
        ModelError: a file is missing or cut short, or the configuration is not supported.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = ModelConfig.from_folder(path)
        self.stored: dict[str, StoredTensor] = {}
        for file in self._files():
            self.stored.update({tensor.name: tensor for tensor in read_header(file)})
        self._sources = sources(self.stored, self.config)
        if self.config.tie_word_embeddings:
            self._sources.pop("lm_head.weight", None)  # a copy of the embedding

    @property
    def names(self) -> list[str]:
        """Our names of the text network's tensors (see `model/names.py`)."""
        return list(self._sources)

    def file_name(self, name: str) -> str:
        """The name in the file of the tensor that holds ours."""
        return self._sources[name].name

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of our tensor, from the file's header."""
        source = self._sources[name]
        return source.cut_shape(self.stored[source.name].shape)

    def packed_bits(self, name: str) -> float | None:
        """Bits of a value where the file has MXFP8 values and scales for our name, else None."""
        return None if self._sources[name].scale is None else MXFP8_BITS

    def read(self, name: str, take: Take = allocate, cut: Cut | None = None) -> Tensor:
        """One tensor, or a part of it, in the dtype of its file; MXFP8 dequantised to bfloat16.

        Args:
            name: ours.
            take: gives the memory.
            cut: the part; of MXFP8 columns, whole blocks of 32.

        Raises:
            ModelError: no floating point; names the tensor.
        """
        if self.packed_bits(name) is not None:
            return self.read_quantised(name, take, cut).dequantise()
        source = self._sources[name]
        stored = self.stored[source.name]
        tensor = self._get(source, take, cut)
        if tensor.dtype.itemsize == 1:
            raise ModelError(f"{stored.file}: tensor {source.name} has dtype {stored.dtype} and no scales beside it")
        return tensor

    def read_quantised(self, name: str, take: Take = allocate, cut: Cut | None = None) -> MXFP8Weight:
        """An MXFP8 tensor, or a part of it, as it is stored.

        Raises:
            ModelError: values and scales that don't fit; names the tensor.
        """
        source = self._sources[name]
        scale_cut = cut
        if cut is not None and cut.dim == 1:
            if cut.start % BLOCK or cut.stop % BLOCK:
                raise ModelError(
                    f"{self.path}: tensor {source.name} can't be split within its blocks of {BLOCK} values"
                )
            scale_cut = Cut(1, cut.start // BLOCK, cut.stop // BLOCK)
        values = self._get(source, take, cut)
        scales = self.stored[source.scale or ""].read(take, cut=scale_cut)
        try:
            return MXFP8Weight(values, scales)
        except ValueError as error:
            raise ModelError(f"{self.stored[source.name].file}: tensor {source.name} is not MXFP8: {error}") from error

    def _get(self, source: Source, take: Take, cut: Cut | None) -> Tensor:
        stored = self.stored[source.name]
        return stored.read(take, first=source.first(stored.shape), shape=source.cut_shape(stored.shape), cut=cut)

    def _files(self) -> list[Path]:
        index = self.path / _INDEX
        if index.exists():
            try:
                files = sorted({self.path / name for name in json.loads(index.read_text())["weight_map"].values()})
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise ModelError(f"{index}: can't be read ({error})") from error
            for file in files:
                if file.parent != self.path or not file.is_file():
                    raise ModelError(f"{index}: names {file.name}, which is not in {self.path}")
            return files
        file = self.path / "model.safetensors"
        if not file.is_file():
            raise ModelError(f"{self.path}: has neither model.safetensors nor {_INDEX}")
        return [file]


Checkpoint = GGUFCheckpoint | SafetensorsCheckpoint | AlignedCheckpoint


def open_checkpoint(path: Path) -> GGUFCheckpoint | SafetensorsCheckpoint:
    """The checkpoint at a path: a folder in the Hugging Face layout, or a GGUF file."""
    if not path.exists():
        raise ModelError(f"{path}: no such model file or folder")
    return SafetensorsCheckpoint(path) if path.is_dir() else GGUFCheckpoint(path)


def load_decoder(
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    *,
    sparse: SparseConfig | None = None,
    backend: str = "torch",
    weights: WeightsOption = "bf16",
    pack: bool = False,
    parallel: Parallel | None = None,
    extension: Extension | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Decoder:
    """A decoder with the checkpoint's weights.

    Args:
        checkpoint: an open checkpoint.
        dtype: of the matrices; norms and routers stay fp32.
        sparse, backend: see `Decoder`.
        weights: see `choose_weights`; all but "bf16" needs `pack`.
        pack: lay out the weights for inference, each as soon as it is read: a second copy is there of one weight a
            thread, no more.
        parallel: of several processes, which compute the model together; only this one's part is read.
        extension: see `Decoder`.
        on_progress: called with tensors read and tensors in all.

    Raises:
        InputError: `weights` is not for this checkpoint, see `choose_weights`.
        ModelError: a tensor is missing, extra or of the wrong shape; the message names it.

    Warns:
        UserWarning: a tensor holds NaN; the message names it.
    """
    weights = choose_weights(checkpoint, weights, dtype, backend)
    if weights != "bf16" and not pack:
        raise InputError("weights", f"{weights!r} is for weights that are laid out on a CPU")
    decoder = empty_decoder(checkpoint.config, sparse, backend, parallel, extension)
    expected = {name: p.shape for name, p in decoder.named_parameters()}  # a tied head is not named twice
    whole = expected
    if parallel is not None:
        whole = {name: p.shape for name, p in empty_decoder(checkpoint.config).named_parameters()}
    for problem in problems(checkpoint, whole):
        raise ModelError(f"{checkpoint.path}: {problem}")
    bits = packed_bits(checkpoint, decoder, weights)

    def read(name: str, take: Take, *, quantised: bool = False) -> Weight:
        cut = None if parallel is None else parallel.cut(expected[name], whole[name])
        tensor = (checkpoint.read_quantised if quantised else checkpoint.read)(name, take, cut)
        if has_nan(tensor):
            warnings.warn(f"{checkpoint.path}: tensor {checkpoint.file_name(name)} holds NaN", stacklevel=2)
        if not isinstance(tensor, Tensor):
            return tensor
        return as_dtype(tensor, torch.float32 if tensor.ndim == 1 or stays_fp32(name) else dtype, take)

    memory, scratch = Memory(), threading.local()

    def weight_of(part: nn.Linear, take: Take) -> Weight:
        head_is_embedding, keep = tied and part is decoder.lm_head, name_of[part] in bits
        if keep and weights == "packed":
            return read("embed_tokens.weight" if head_is_embedding else name_of[part], take, quantised=True)
        weight = decoder.embed_tokens.weight if head_is_embedding else read(name_of[part], take)
        return quantise(weight.detach()) if keep and isinstance(weight, Tensor) else weight

    def pack_all(linears: Sequence[FusedLinear]) -> int:
        """Reads and lays out; what is read lies where the thread read before, so that it stays in the core's cache."""
        reused: Memory = scratch.__dict__.setdefault("memory", Memory())
        for linear in linears:
            reused.clear()
            weights = [weight_of(part, reused.take) for part in linear.parts]
            linear.pack(*weights, backend=backend, take=memory.take)
        return sum(len(linear.parts) for linear in linears)

    linears = list(decoder.fused_linears()) if pack else []
    name_of = {module: f"{name}.weight" for name, module in decoder.named_modules()}
    tied = checkpoint.config.tie_word_embeddings and bool(decoder.fused)
    packed = {name_of[part] for linear in linears for part in linear.parts}
    alone, done = [name for name in expected if name not in packed], 0
    for name in alone:
        tensor = read(name, memory.take)
        assert isinstance(tensor, Tensor)
        _set(decoder, name, tensor)
    if tied:
        decoder.lm_head.weight = decoder.embed_tokens.weight
    with collector_paused(), ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for count in pool.map(pack_all, [linears[i : i + _TOGETHER] for i in range(0, len(linears), _TOGETHER)]):
            done += count
            if on_progress is not None:
                on_progress(min(len(alone) + done, len(expected)), len(expected))
    return decoder.finish() if pack else decoder.eval()


def choose_weights(
    checkpoint: Checkpoint, weights: WeightsOption, dtype: torch.dtype, backend: str
) -> Literal["bf16", "packed", "int8"]:
    """How the matrices of linear layers are held.

    Args:
        checkpoint: an open checkpoint.
        weights: "bf16": in `dtype`. "packed": as the file has them where it is quantised: of a GGUF file Q4_0, Q4_1 and
            Q8_0, which costs nothing and changes no bit of a result; of MXFP8 checkpoints all, dequantised at each use,
            which is slow. "int8": in 8 bits with a scale for 32 inputs; what the file has in more is rounded.
            "auto": "packed" where it costs nothing, else "bf16".
        dtype: of the matrices.
        backend: the kernel backend.

    Raises:
        InputError: not for this checkpoint, dtype or backend.
    """
    is_gguf = _is_gguf(checkpoint)
    is_quantised = any(checkpoint.packed_bits(name) is not None for name in checkpoint.names)
    if weights == "auto":
        free = is_gguf and is_quantised and backend == "native" and dtype == torch.bfloat16
        return "packed" if free else "bf16"
    if weights == "packed" and not is_quantised:
        kinds = "Q4_0, Q4_1 or Q8_0 tensors" if is_gguf else "MXFP8 checkpoints"
        raise InputError("weights", f"'packed' is for {kinds}, and {checkpoint.path.name} has none")
    if weights != "bf16" and dtype != torch.bfloat16:
        raise InputError("weights", f"{weights!r} computes in bfloat16; leave out dtype float32")
    if (weights == "int8" or (weights == "packed" and is_gguf)) and backend != "native":
        raise InputError("weights", f"{weights!r} needs the native backend, not {backend!r}")
    return weights


def packed_bits(checkpoint: Checkpoint, decoder: Decoder, weights: str) -> dict[str, float]:
    """The matrices that stay packed, by name, and the bits that a value of theirs then takes; by headers alone.

    The kernel takes parts of one linear layer of 8 or 4 bits when all are of one kind; others are dequantised.
    """
    found: dict[str, float] = {}
    if weights == "bf16":
        return found
    name_of = {module: f"{name}.weight" for name, module in decoder.named_modules()}
    for linear in decoder.fused_linears():
        names = [name_of[part] for part in linear.parts]
        if weights == "int8":
            if all(part.in_features % GROUP == 0 for part in linear.parts):
                found.update(dict.fromkeys(names, PACKED_BITS[8]))
            continue
        stored = ["embed_tokens.weight" if name not in checkpoint.names else name for name in names]
        bits = [checkpoint.packed_bits(name) for name in stored]
        if _is_gguf(checkpoint) and len(set(bits)) > 1:
            continue
        found.update({name: b for name, b in zip(names, bits, strict=True) if b is not None})
    return found


def _is_gguf(checkpoint: Checkpoint) -> bool:
    base = checkpoint.base if isinstance(checkpoint, AlignedCheckpoint) else checkpoint
    return isinstance(base, GGUFCheckpoint)


def problems(checkpoint: Checkpoint, expected: Mapping[str, Sequence[int]]) -> Iterator[str]:
    """What keeps a checkpoint from filling parameters of these shapes, by headers alone: nothing when it loads."""
    given, guesses = checkpoint.names, 20  # the search for the nearest name is slow
    for name in given:
        if name not in expected:
            yield _unexpected(checkpoint, name, list(expected) if guesses > 0 else [])
            guesses -= 1
        elif (shape := list(checkpoint.shape(name))) != list(expected[name]):
            yield f"tensor {checkpoint.file_name(name)} has shape {shape}, expected {list(expected[name])}"
    for name in sorted(set(expected).difference(given)):
        yield f"tensor {name!r} is missing"


def _unexpected(checkpoint: Checkpoint, name: str, expected: list[str]) -> str:
    in_file = checkpoint.file_name(name)
    if name.endswith(_NVFP4_SUFFIXES):
        return f"{in_file} is NVFP4, which is not supported; take the bf16 or the MXFP8 checkpoint"
    if ".self_attn.index" in name and checkpoint.config.swiglu is not None:
        what = "has no sparse_attention_config" if checkpoint.config.index is None else "makes its layer dense"
        return (
            f"unexpected tensor {in_file!r} of an index branch, and config.json {what}; "
            "the model is not run without its index branch"
        )
    if name.endswith(SCALE_SUFFIXES):
        return f"scales {in_file!r} belong to no tensor"
    return f"unexpected tensor {in_file!r}{nearest(name, expected)}"


def has_nan(tensor: Weight) -> bool:
    """Whether any value is NaN."""
    if isinstance(tensor, GroupedWeight):  # an infinite scale makes NaN of zero
        return not all(bool(t.isfinite().all()) for t in (tensor.scales_OG, tensor.offsets_OG) if t is not None)
    if isinstance(tensor, MXFP8Weight):  # NaN is 0x7F or 0xFF, the largest of signed and of unsigned bytes
        bits = tensor.values_OI.view(torch.uint8)
        return (
            int(bits.max()) == 0xFF or int(bits.view(torch.int8).max()) == 0x7F or int(tensor.scales_OB.max()) == 0xFF
        )
    if tensor.dtype == torch.bfloat16:  # numpy, which finds the largest number twice as fast as torch finds a sum
        numbers = tensor.detach().view(torch.int16).numpy()
        return bool(numbers.max() > 0x7F80 or numbers.view("uint16").max() > 0xFF80)
    return bool(tensor.sum().isnan()) and bool(tensor.isnan().any())  # the sum is fast, but NaN of infinities too


def stays_fp32(name: str) -> bool:
    """Whether a parameter is fp32 in published checkpoints too: the router's."""
    return name.endswith(("block_sparse_moe.gate.weight", "e_score_correction_bias"))


def _set(decoder: Decoder, name: str, tensor: Tensor) -> None:
    owner, _, attribute = name.rpartition(".")
    setattr(decoder.get_submodule(owner), attribute, nn.Parameter(tensor, requires_grad=False))
