"""What `openm3 train run` is told: a TOML file of these sections."""

from __future__ import annotations

import json
import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from openm3.config import SparseConfig, nearest
from openm3.config.presets import PRESETS
from openm3.errors import InputError

_STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, kw_only=True)
class ModelSection:
    """What is trained. Exactly one of the first three is given.

    Attributes:
        preset: an M3 model of these sizes, from scratch.
        config: a `config.json` of M3 or the Llama family, from scratch.
        checkpoint: a model's folder, whose weights training goes on from.
        changes: keys of the preset's or file's text network that have other values, for what is made from scratch.
        tokenizer: a folder with one, for what is made from scratch; None: bytes and M3's special tokens.
        sparse: a model without an index branch reads chosen blocks, by its own keys.
        index_branch: of a Llama-family model. "auto": what lies beside a checkpoint, else none; "new": one of the
            published form in every layer; "none"; or the folder of one that was made for the checkpoint.
        index_head_dim: elements of an index head of a new branch; None: as many as a head has.
        blocks: which ones, with `sparse` or a new branch. Other branches have their own.
        init_std: deviation of new weights.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    preset: Literal["tiny", "small", "m3", "m3.1"] | None = None
    config: str | None = None
    checkpoint: str | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    tokenizer: str | None = None
    sparse: bool = False
    index_branch: str = "auto"
    index_head_dim: int | None = None
    blocks: SparseConfig = field(default_factory=SparseConfig)
    init_std: float = 0.02

    def __post_init__(self) -> None:
        given = [name for name in ("preset", "config", "checkpoint") if getattr(self, name) is not None]
        if len(given) != 1:
            named = " and ".join(given) or "none"
            raise InputError("model", f"needs one of preset ({', '.join(PRESETS)}), config and checkpoint, got {named}")
        if self.checkpoint is not None and (self.changes or self.tokenizer is not None):
            raise InputError("model.checkpoint", "has its own sizes and tokenizer; leave out changes and tokenizer")
        is_new = self.index_branch == "new"
        if self.blocks != SparseConfig() and not (self.sparse or is_new):
            raise InputError("model.blocks", "are for sparse = true, or index_branch = 'new'")
        if self.index_head_dim is not None and not is_new:
            raise InputError("model.index_head_dim", "is for index_branch = 'new'")
        if self.checkpoint is None and self.index_branch not in ("auto", "new", "none"):
            raise InputError("model.index_branch", "is a folder, and that is for a checkpoint; take 'new' or 'none'")
        _positive(self, "model", "init_std", *(() if self.index_head_dim is None else ("index_head_dim",)))


@dataclass(frozen=True, kw_only=True)
class DataSection:
    """What it learns from.

    Attributes:
        paths: files, folders or globs of text, code, JSON lines, Parquet or `datasets`.
        text_key: where a line of JSON or a table has its text.
        window: tokens of a window.
        held_out: share of the bytes that is never trained on, whole documents.
        seed: of the order.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    paths: tuple[str, ...]
    window: int
    text_key: str = "text"
    held_out: float = 0.02
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainingSection:
    """How it learns.

    Attributes:
        steps: in all.
        windows_per_step: of all processes together.
        windows_at_once: of one process in one pass; the gradients of the passes of a step are added.
        dtype: of products; parameters, their gradients and sums are fp32.
        device: "cpu" or "cuda"; one for each process.
        recompute: keep less for gradients and compute layers twice.
        seed: of new weights.
        lr: peak learning rate of AdamW.
        betas, eps: of AdamW.
        weight_decay: of matrices.
        schedule: "cosine" falls along a half wave; "wsd" is level and falls at the end, along a line.
        warmup_steps: in which the rate rises from 0, along a line.
        decay_steps: of "wsd", the last steps, in which it falls.
        final_lr: share of the peak at the end.
        clip_norm: gradients longer than this are shortened; those of the index branch have a length of their own.
        balance_rate: how far a step moves the bias by which experts are chosen.
        save_every: steps between checkpoints.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    steps: int
    windows_per_step: int
    windows_at_once: int = 1
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    device: Literal["cpu", "cuda"] = "cpu"
    recompute: bool = False
    seed: int = 0
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    schedule: Literal["cosine", "wsd"] = "cosine"
    warmup_steps: int = 0
    decay_steps: int = 0
    final_lr: float = 0.1
    clip_norm: float = 1.0
    balance_rate: float = 1e-3
    save_every: int = 100

    def __post_init__(self) -> None:
        names = ("steps", "windows_per_step", "windows_at_once", "save_every", "lr", "eps", "clip_norm")
        _positive(self, "training", *names)
        for name in ("warmup_steps", "decay_steps", "weight_decay", "balance_rate", "final_lr"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"training.{name}", f"can't be negative or infinite, got {getattr(self, name)}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError("training.betas", f"must be from 0 to below 1, got {list(self.betas)}")
        if self.decay_steps and self.schedule != "wsd":
            raise InputError("training.decay_steps", f"is for schedule 'wsd', and it is {self.schedule!r}")
        if self.warmup_steps + self.decay_steps > self.steps:
            raise InputError("training.warmup_steps", f"and decay_steps are more than all {self.steps} steps")


@dataclass(frozen=True, kw_only=True)
class AlignmentSection:
    """How an index branch learns which blocks the model reads, beside it (arXiv 2606.13392).

    Attributes:
        weight: of the alignment losses, which are added up over the layers.
        lr: peak learning rate of the branch; None: the model's.
        dense_steps: first steps in which everything is read, by model and branch.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    weight: float = 1.0
    lr: float | None = None
    dense_steps: int = 0

    def __post_init__(self) -> None:
        _positive(self, "alignment", "weight", *(() if self.lr is None else ("lr",)))
        if self.dense_steps < 0:
            raise InputError("alignment.dense_steps", f"can't be negative, got {self.dense_steps}")


@dataclass(frozen=True, kw_only=True)
class EvaluationSection:
    """How often it is measured on what is held out.

    Attributes:
        every: steps; also at the end. 0: never.
        windows: how many.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    every: int = 100
    windows: int = 8

    def __post_init__(self) -> None:
        _positive(self, "evaluation", "windows")
        if self.every < 0:
            raise InputError("evaluation.every", f"can't be negative, got {self.every}")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All sections."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    model: ModelSection
    data: DataSection
    training: TrainingSection
    alignment: AlignmentSection = field(default_factory=AlignmentSection)
    evaluation: EvaluationSection = field(default_factory=EvaluationSection)

    def __post_init__(self) -> None:
        if self.evaluation.every and not self.data.held_out:
            raise InputError("data.held_out", "is 0, so there is nothing to evaluate on; set evaluation.every to 0")

    @classmethod
    def read(cls, path: Path) -> RunConfig:
        """Reads a TOML file.

        Raises:
            InputError: it is none, or a key is unknown, missing or of the wrong type; the field is the key's name.
        """
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
            text = json.dumps(raw)
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise InputError("config", f"{path} can't be read as TOML ({error})") from error
        try:
            return TypeAdapter(cls).validate_json(text)  # JSON, where lists may become tuples
        except ValidationError as error:
            raise _first(error, path) from None


def _first(error: ValidationError, path: Path) -> InputError:
    """One thing that is wrong, in a sentence: a key that nobody knows before what is then missing."""
    unknown = ("unexpected_keyword_argument", "extra_forbidden")
    found = min(error.errors(include_url=False), key=lambda found: found["type"] not in unknown)
    names = [str(part) for part in found["loc"]]
    name = ".".join(names)
    if found["type"] in unknown:
        section: Any = RunConfig
        for part in names[:-1]:
            section = _SECTIONS.get(part, section)
        return InputError(name, f"is unknown in {path}{nearest(names[-1], list(section.__dataclass_fields__))}")
    if found["type"] in ("missing", "missing_argument"):
        return InputError(name, f"is missing in {path}")
    return InputError(name, f"{found['msg'][0].lower()}{found['msg'][1:]} in {path}, got {found['input']!r}")


def _positive(section: object, of: str, *names: str) -> None:
    for name in names:
        if not 0 < (value := getattr(section, name)) < math.inf:
            raise InputError(f"{of}.{name}", f"must be positive and finite, got {value}")


_SECTIONS: dict[str, Any] = {
    "model": ModelSection,
    "data": DataSection,
    "training": TrainingSection,
    "alignment": AlignmentSection,
    "evaluation": EvaluationSection,
    "blocks": SparseConfig,
}
