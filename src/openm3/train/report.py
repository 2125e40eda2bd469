"""What sparse attention costs and saves on given texts: NLL, recall, key retrieval and speed, with dense beside it."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch

from openm3.config import EngineConfig, SparseConfig
from openm3.engine.llm import LLM
from openm3.engine.params import SamplingParams
from openm3.errors import InputError
from openm3.model.aligned import AlignedCheckpoint
from openm3.model.branch import open_model
from openm3.model.sidecar import Sidecar
from openm3.train import needles
from openm3.train.corpus import Corpus
from openm3.train.data import Windows, document_end
from openm3.train.reader import Reader
from openm3.train.recall import Recall

_EVERY = 4  # tokens to one whose NLL counts
_RECALL_ROWS = 64  # of each text
_ANSWER_TOKENS = 33  # of an answer that is timed
_SPEED_RUNS = 3

Report = dict[str, Any]
Tell = Callable[[int, str], None]  # tokens that were read since the last call, and what for


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What is measured.

    Attributes:
        lengths: of the contexts, in tokens, ascending; the NLL of one is that of its second half.
        budgets: blocks that a query reads.
        num_texts: windows of the longest length that are read of each data.
        num_keys: keys that are asked for at each length and depth; 0 for none.
        speed: whether to take the time.
        index_branch, dtype, device: as in `EngineConfig`.
    """

    lengths: tuple[int, ...]
    budgets: tuple[int, ...] = (8, 16)
    num_texts: int = 2
    num_keys: int = 4
    speed: bool = True
    index_branch: str = "auto"
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    device: Literal["cpu", "cuda"] | None = None

    def __post_init__(self) -> None:
        for name, values in (("lengths", self.lengths), ("budgets", self.budgets)):
            if not values or list(values) != sorted(set(values)):
                got = ", ".join(map(str, values)) or "none"
                raise InputError(name, f"must be one number or several, the smallest first, got {got}")
        for name, value, least in (
            ("lengths", self.lengths[0], 128),
            ("num_texts", self.num_texts, 1),
            ("num_keys", self.num_keys, 0),
        ):
            if value < least:
                raise InputError(name, f"must be at least {least}, got {value}")


@dataclass(frozen=True)
class Method:
    """A way to attend: dense, to blocks that an index branch chooses, or to blocks that the model's own keys choose."""

    kind: Literal["dense", "branch", "own keys"]
    sparse: SparseConfig | None = None

    def __str__(self) -> str:
        return f"{self.kind}, {self.sparse.index_topk_blocks} blocks" if self.sparse else self.kind


class Measurement:
    """One report in the making.

    Args:
        path: of the model.
        corpora: by name, the texts to read; training must not have seen them.
        config: what is measured.

    Attributes:
        methods: what is compared.
        sidecar: the index branch beside the model, where there is one.
        num_tokens: how many tokens will be read.

    Raises:
        InputError: a text is too short, or an option doesn't fit the model.
    """

    def __init__(self, path: Path, corpora: Mapping[str, Corpus], config: ReportConfig) -> None:
        self.config, self._path, self._done = config, path, 0
        self.sidecar: Sidecar | None = None
        self.methods = self._choose_methods()
        llm = self._load(self.methods[0])
        self._texts = {name: self._windows(llm, corpus) for name, corpus in corpora.items()}
        self._about = self._describe(llm, corpora)
        longest = config.lengths[-1]
        for_texts = longest * config.num_texts * len(corpora)
        for_keys = sum(config.lengths) * config.num_keys * len(needles.DEPTHS)
        for_speed = longest * _SPEED_RUNS if config.speed else 0
        self.num_tokens = len(self.methods) * (for_texts + for_keys + for_speed)

    def run(self, on_progress: Tell) -> Report:
        """Measures everything; says how many tokens are done in all, and what is being done."""
        found = {}
        for method in self.methods:

            def tell(tokens: int, what: str, method: Method = method) -> None:
                self._done += tokens
                on_progress(self._done, f"{method}: {what}")

            llm = self._load(method)
            figures: Report = {"kind": method.kind, "blocks": method.sparse and method.sparse.index_topk_blocks}
            figures |= self._read_texts(llm, method, tell)
            figures["keys"] = self._find_keys(llm, tell)
            if self.config.speed:
                figures["speed"] = self._speed(llm, tell)
            found[str(method)] = figures
        return {**self._about, "methods": found}

    def _choose_methods(self) -> list[Method]:
        """Dense, the branch where there is one, and own keys; of a model that was trained sparse only itself."""
        base = open_model(self._path, EngineConfig(index_branch="auto", attention="dense"))
        if base.config.index is not None:
            return [Method("branch", base.config.index.sparse)]
        branched = open_model(self._path, EngineConfig(index_branch=self.config.index_branch, attention="sparse"))
        if isinstance(branched, AlignedCheckpoint):
            self.sidecar = branched.sidecar
        index = branched.config.index
        sparse = SparseConfig() if index is None else index.sparse
        budgets = [replace(sparse, index_topk_blocks=blocks) for blocks in self.config.budgets]
        by_branch = [] if index is None else [Method("branch", each) for each in budgets]
        return [Method("dense"), *by_branch, *(Method("own keys", each) for each in budgets)]

    def _load(self, method: Method) -> LLM:
        config = EngineConfig(
            attention="dense" if method.kind == "dense" else "sparse",
            sparse=method.sparse,
            index_branch=self.config.index_branch if method.kind == "branch" else "none",
            max_context=self.config.lengths[-1],
            dtype=self.config.dtype,
            device=self.config.device,
            prefix_cache=False,
            speculation="off",
        )
        llm = LLM(self._path, config)
        if method.sparse not in (None, llm.config.blocks):
            raise InputError("budgets", f"{method} can't be asked of this model, which reads {llm.config.blocks}")
        return llm

    def _windows(self, llm: LLM, corpus: Corpus) -> list[list[int]]:
        end = document_end(llm.tokenizer)
        windows = Windows(corpus, llm.encode, self.config.lengths[-1], end_id=end, epochs=1)
        return [window.ids_T.tolist() for window in islice(windows, self.config.num_texts)]

    def _describe(self, llm: LLM, corpora: Mapping[str, Corpus]) -> Report:
        sidecar, runner = self.sidecar, llm.engine.runner
        return {
            "date": datetime.date.today().isoformat(),
            "model": llm.name,
            "model_identity": llm.identity,
            "trained_window": llm.model_config.max_position_embeddings,
            "branch": sidecar and {"identity": sidecar.identity, "index": asdict(sidecar.index), "made": sidecar.made},
            "data": {
                name: {"documents": len(corpus), "bytes": corpus.num_bytes, "digest": corpus.digest}
                for name, corpus in corpora.items()
            },
            "machine": {
                "device": torch.cuda.get_device_name() if runner.device.type == "cuda" else "CPU",
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "kernels": runner.backend,
                "dtype": self.config.dtype,
            },
            "config": asdict(self.config),
        }

    def _read_texts(self, llm: LLM, method: Method, tell: Tell) -> Report:
        """NLL by data and length, and the recall of each layer at the longest length."""
        reader, longest = Reader(llm), self.config.lengths[-1]
        first = longest // 2
        if method.sparse is not None:  # before that everything is read
            first = max(first, method.sparse.index_topk_blocks * method.sparse.index_block_size)
        recall = Recall(range(first, longest, max(1, (longest - first) // _RECALL_ROWS)))
        places = range(self.config.lengths[0] // 2, longest - 1, _EVERY)
        nll: dict[str, dict[str, float]] = {}
        for name, texts in self._texts.items():
            values: list[list[float]] = [[] for _ in self.config.lengths]
            for ids in texts:
                one = reader.nll(ids, places, None if method.sparse is None else recall)
                for length, found in zip(self.config.lengths, values, strict=True):
                    inside = [i for i, place in enumerate(places) if length // 2 <= place < length - 1]
                    found.append(float(one[inside].mean()))
                tell(longest, f"NLL of {name}")
            nll[name] = {str(n): statistics.fmean(found) for n, found in zip(self.config.lengths, values, strict=True)}
        return {"nll": nll, "recall": [asdict(layer) for layer in recall.layers()]}

    def _find_keys(self, llm: LLM, tell: Tell) -> dict[str, dict[str, float]]:
        """By length and depth, the share of keys that are found."""
        reader, texts = Reader(llm), list(self._texts.values())
        found: dict[str, dict[str, float]] = {}
        for length in self.config.lengths if self.config.num_keys else ():
            hits = dict.fromkeys(needles.DEPTHS, 0)
            for seed in range(self.config.num_keys):
                one = texts[seed % len(texts)]
                ids = one[seed // len(texts) % len(one)]
                for depth in needles.DEPTHS:
                    hits[depth] += needles.found(reader, needles.hide(llm, needles.LINE, ids, length, depth, seed))
                    tell(length, f"keys at {length:,}")
            found[str(length)] = {str(depth): hits[depth] / self.config.num_keys for depth in sorted(needles.DEPTHS)}
        return found

    def _speed(self, llm: LLM, tell: Tell) -> dict[str, float]:
        """Medians of tokens a second at the longest length, one request at a time."""
        reads, answers = [], []
        texts = [ids for texts in self._texts.values() for ids in texts]
        for run in range(_SPEED_RUNS):
            ids = texts[run % len(texts)][:-_ANSWER_TOKENS]
            [answer] = llm.generate([ids], SamplingParams(max_tokens=_ANSWER_TOKENS, ignore_eos=True))
            reads.append(len(ids) / answer.stats.read_s)
            answers.append((_ANSWER_TOKENS - 1) / answer.stats.decode_s)
            tell(self.config.lengths[-1], "speed")
        return {"prompt_tokens_per_s": statistics.median(reads), "answer_tokens_per_s": statistics.median(answers)}
