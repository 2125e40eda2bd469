"""A run of language-model training, from its configuration to the model that it leaves.

OUT/metrics.jsonl, OUT/checkpoints/    see `train/session.py`
OUT/tokenizer/                         of bytes, where none is given
OUT/model/                             what every command opens, when the run has ended or was stopped
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from openm3.config import EngineConfig, IndexConfig, ModelConfig
from openm3.config.presets import preset
from openm3.errors import InputError, ModelError
from openm3.model.aligned import AlignedCheckpoint
from openm3.model.branch import open_model
from openm3.model.decoder import collector_paused
from openm3.model.identity import identity_of
from openm3.model.weights import Checkpoint
from openm3.text.byte_level import SMALLEST_VOCAB, write_byte_tokenizer
from openm3.text.tokenizer import Tokenizer
from openm3.train.corpus import Corpus
from openm3.train.data import Interleaved, Window, Windows, document_end
from openm3.train.language import LanguageLearner
from openm3.train.model import TrainableDecoder
from openm3.train.parameters import fill_from, fill_random, write_model
from openm3.train.pictures import Line, Plot, draw
from openm3.train.run_config import ModelSection, RunConfig
from openm3.train.session import Row, Session, SessionConfig
from openm3.train.sharding import Group, shard

# Options that change nothing of what is learnt, so that a run may go on with others.
_FREE = ("data.paths", "data.text_key", "training.device", "training.recompute", "training.save_every")


class LanguageRun:
    """Everything of a run, ready to go.

    Args:
        config: what to do.
        folder: of the run.
        group: the processes; each makes its own, and all call the same methods.
        resume: go on from the newest checkpoint.

    Attributes:
        config: as given.
        model: the configuration of the model.
        corpus, held_out: the documents.
        session, learner: what does the steps.

    Raises:
        InputError: an option doesn't fit the others, the data, the model or the number of processes.
        ModelError: the model can't be used.
        StoreError: the run's checkpoint can't.
    """

    def __init__(self, config: RunConfig, folder: Path, group: Group, *, resume: bool = False) -> None:
        self.config, self._folder, self._group = config, folder, group
        self._raw = _raw_config(config.model)
        self.model = ModelConfig.from_hf(self._raw, config.model.config or "config.json")
        self._checkpoint: Checkpoint | None = None
        if config.model.checkpoint is not None:
            branch = "none" if config.model.index_branch == "new" else config.model.index_branch
            path = Path(config.model.checkpoint).expanduser()
            self._checkpoint = open_model(path, EngineConfig(index_branch=branch))
            self.model = self._checkpoint.config
        if config.model.index_branch == "new":
            self.model = _with_new_branch(self.model, config.model)
        self._check()
        self._text_folder = self._find_text()
        tokenizer = Tokenizer.from_folder(self._text_folder)
        if tokenizer.vocab_size > self.model.vocab_size:
            raise InputError(
                "model.tokenizer", f"has {tokenizer.vocab_size} tokens, more than vocab_size {self.model.vocab_size}"
            )
        data = config.data
        corpus = Corpus.read(data.paths, text_key=data.text_key)
        self.corpus, self.held_out = corpus.split(data.held_out)

        def encode(text: str) -> list[int]:
            return tokenizer.encode(text, add_bos=tokenizer.adds_bos)

        def windows(corpus: Corpus, seed: int, epochs: int | None = None) -> Windows:
            return Windows(corpus, encode, data.window, end_id=document_end(tokenizer), seed=seed, epochs=epochs)

        count = config.training.windows_per_step
        stream = Interleaved([windows(self.corpus, data.seed * count + i) for i in range(count)])
        held_out = windows(self.held_out, data.seed, epochs=1)
        self._to_measure = self._held_out_windows(held_out) if config.evaluation.every else []
        self.learner = LanguageLearner(self._decoder(), config, group, self._measure)
        steps = SessionConfig(
            num_steps=config.training.steps,
            accumulate=count,
            save_every=config.training.save_every,
        )
        self.session = Session(
            self.learner,
            stream,
            steps,
            folder,
            identity=self._identity(corpus),
            resume=resume,
            writes=group.rank == 0,
        )

    def write_model(self) -> Path:
        """Writes the model as it is now, and says where."""
        parameters = self.learner.parameters()
        if self._group.rank == 0:
            made = {"command": "openm3 train run", "steps": self.session.step, "data": self.corpus.digest}
            write_model(self._folder / "model", self._raw, self.model, parameters, self._text_folder, made)
        return self._folder / "model"

    def draw(self) -> None:
        """Draws the losses of all steps so far."""
        rows = self.session.rows()
        if rows and self._group.rank == 0:
            names = ("nll", "held_out_dense", "held_out_sparse")
            losses = [_line(rows, name) for name in names if any(name in row for row in rows)]
            plots = [Plot("next token", "tokens", "nats", losses)]
            if "kl" in rows[0]:
                plots.append(Plot("alignment, sum over layers", "tokens", "nats", [_line(rows, "kl")]))
            draw(plots, self._folder / "training.png")

    def _check(self) -> None:
        size, training = self._group.size, self.config.training
        for name, count in (
            ("training.windows_per_step", training.windows_per_step),
            ("evaluation.windows", self.config.evaluation.windows),
        ):
            if count % size:
                raise InputError(name, f"{count} is not a multiple of the {size} processes")
        if self.config.data.window > self.model.max_position_embeddings:
            raise InputError(
                "data.window",
                f"{self.config.data.window} is more than the model's max_position_embeddings "
                f"{self.model.max_position_embeddings}",
            )
        index = self.model.index
        if index is not None and self.config.model.sparse:
            raise InputError("model.sparse", "is for models without an index branch, and this one has its own")
        if index is not None and index.index_n_heads != self.model.num_key_value_heads:
            raise InputError(
                "model", f"has {index.index_n_heads} index heads; the alignment loss is for one each key/value head"
            )

    def _find_text(self) -> Path:
        """The folder of the tokenizer."""
        section = self.config.model
        if (given := section.checkpoint or section.tokenizer) is not None:
            return Path(given).expanduser()
        if self.model.vocab_size < SMALLEST_VOCAB:
            raise InputError("model.tokenizer", f"is needed: bytes take a vocab_size of at least {SMALLEST_VOCAB}")
        folder = self._folder / "tokenizer"
        if self._group.rank == 0 and not (folder / "tokenizer.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_byte_tokenizer(folder, self.model.vocab_size)
        self._group.any(False)  # the others wait for it
        return folder

    def _decoder(self) -> TrainableDecoder:
        section, training = self.config.model, self.config.training
        sparse = section.blocks if section.sparse else None
        with torch.device("meta"), collector_paused():
            empty = TrainableDecoder(self.model, sparse, getattr(torch, training.dtype), training.recompute)
        decoder = shard(empty, self._group)
        fill_random(decoder, training.seed, section.init_std)
        if self._checkpoint is not None:
            fill_from(decoder, self._checkpoint)  # all but a new branch
        return decoder

    def _held_out_windows(self, windows: Windows) -> list[Window]:
        wanted = self.config.evaluation.windows
        found = list(islice(windows, wanted))
        if len(found) < wanted:
            raise InputError(
                "evaluation.windows",
                f"{wanted} are more than the {len(found)} that data.held_out leaves; hold out more",
            )
        return found

    def _measure(self, num_steps: int) -> Row:
        every = self.config.evaluation.every
        if not every or (num_steps % every and num_steps != self.config.training.steps):
            return {}
        return self.learner.measure(self._to_measure)

    def _identity(self, corpus: Corpus) -> Mapping[str, Any]:
        """What the figures depend on, by the names that the user knows."""
        named = {f"{part}.{name}": value for part, it in asdict(self.config).items() for name, value in it.items()}
        named = {name: value for name, value in named.items() if name not in _FREE}
        if self._checkpoint is not None:
            named["model.checkpoint"] = identity_of(self._checkpoint)
        if isinstance(self._checkpoint, AlignedCheckpoint):
            named["model.index_branch"] = self._checkpoint.sidecar.identity
        return {**named, "model": json.dumps(self._raw, sort_keys=True), "data": corpus.digest}


def _line(rows: Sequence[Row], name: str) -> Line:
    found = [(row["tokens"], row[name]) for row in rows if name in row]
    return Line(name.replace("_", " "), *zip(*found, strict=True))


def _with_new_branch(model: ModelConfig, section: ModelSection) -> ModelConfig:
    if model.swiglu is not None:
        raise InputError("model.index_branch", "'new' is for the Llama family; M3's branch is in its config.json")
    index = IndexConfig(
        index_n_heads=model.num_key_value_heads,
        index_head_dim=section.index_head_dim or model.head_dim,
        sparse=section.blocks,
        sparse_attention_freq=(1,) * model.num_hidden_layers,
    )
    return replace(model, index=index)


def _raw_config(section: ModelSection) -> dict[str, Any]:
    """The contents of the model's `config.json`."""
    if section.preset is not None:
        raw = preset(section.preset)
    else:
        path = Path(section.config or str(Path(section.checkpoint or "") / "config.json")).expanduser()
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: can't be read as JSON ({error})") from error
        if not isinstance(raw, dict):
            raise ModelError(f"{path}: must hold a JSON object")
    raw = copy.deepcopy(raw)
    _change(raw["text_config"] if isinstance(raw.get("text_config"), dict) else raw, section.changes)
    return raw


def _change(raw: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(raw.get(key), dict):
            _change(raw[key], value)
        else:
            raw[key] = value
