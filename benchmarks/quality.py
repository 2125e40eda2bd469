"""What reading few blocks costs, and how far a model reads past its trained window: NLL, and keys found in real text.

    python -m benchmarks.quality [--device cuda] [--lengths 2048 8192 65536] [--limit-s 600] [--out FOLDER]
    python -m benchmarks.quality --draw RESULT.json   # the heat map of a result again

NLL (natural log, mean a token) is taken of every 8th token, of code and prose of the standard library: within the
trained window that of its second half, past it by position. Keys: five random digits in a line of real text, asked for
at the end by the beginning of that line; a hit is the greedy answer with all digits right. A method that finds nothing
at a length is not asked at longer ones. Lengths over 16K need a GPU or patience.

A gate comes first: the reader puts the same tokens next as the engine, and distances that nobody clamps change nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import texts
from benchmarks.machine import RESULTS, describe, save
from openm3 import hub
from openm3.config import EngineConfig, SparseConfig
from openm3.engine.llm import LLM
from openm3.engine.params import SamplingParams
from openm3.train import needles
from openm3.train.reader import Reader

EVERY = 8  # tokens to one whose NLL counts
SMALLEST = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 4096, 8192, 16384])
    parser.add_argument("--blocks", type=int, nargs="+", default=[4, 8, 16], help="budgets of sparse attention")
    parser.add_argument("--keys", type=int, default=4, help="keys at each length and depth")
    parser.add_argument(
        "--key-tokens", type=int, default=1 << 18, help="fewer keys where they would read more, down to 1"
    )
    parser.add_argument("--nll-up-to", type=int, default=131072)
    parser.add_argument("--limit-s", type=float, default=3600, help="what isn't begun by then is left out")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--draw", type=Path, help="a result to draw again")
    options = parser.parse_args()
    if options.draw:
        from benchmarks.quality_picture import draw

        return draw(json.loads(options.draw.read_text()), options.draw.with_suffix(".png"))
    run = Run(options)
    gate(run)
    most = options.blocks[-1]
    methods = ["dense", *(f"sparse {blocks}" for blocks in options.blocks), f"last {most}"]
    parts = [(retention, name) for name in methods]
    parts += [(find_keys, name) for name in ("dense", f"sparse {most}")]
    parts += [(part, name) for name in ("clamped", "none", "ntk", "yarn") for part in (nll_by_position, find_keys)]
    left = [tokens_of(run, part, name) for part, name in parts]
    for part, name in parts:
        run.begin(left)
        part(run, name)
    save("quality", run.report, table(run.report), options.out)


class Run:
    """One run: the texts, the model as the method at hand has it, what was found, and how long it takes.

    Attributes:
        report: what `save` is given.
        trained: tokens of the trained window.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self._started, self._key = options, time.perf_counter(), ("", 0)
        self._begun, self._read, self._at_hand, self._behind = 0.0, 0, 0, 0  # for the time left, see `begin`
        self._path = hub.pull(options.model) if options.model in ("default",) else Path(options.model)
        self.longest = max(options.lengths)
        self.load("dense", SMALLEST)
        self.trained = self.llm.model_config.max_position_embeddings
        count = max(self.longest, self.trained) + 1
        sources = {"code": texts.code(), "prose": texts.prose()}
        self.texts = {name: texts.tokens(source, self.llm.encode, count) for name, source in sources.items()}
        device = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
        self.report: dict[str, Any] = {
            "benchmark": "quality",
            "machine": describe(),
            "device": device,
            "model": self.llm.name,
            "trained": self.trained,
            "near_window": 0,
            "retention": {},
            "keys": {},
            "nll": {},
        }

    def load(self, method: str, window: int) -> Reader:
        """The model as a method has it; loaded when it isn't yet."""
        if method in ("clamped", "dense", "none") or " " in method:
            window = max(self.longest, window)  # nothing depends on it
        if (method, window) != self._key:
            self.llm = None  # type: ignore[assignment]  # its memory goes before the next one takes its own
            self.llm = LLM(self._path, config(method, window, self.options.device))
            self._key, self.reader = (method, window), Reader(self.llm)
        return self.reader

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._started

    def has_time(self, what: str) -> bool:
        if self.seconds > self.options.limit_s:
            print(f"{self.seconds:6.1f} s  left out: {what}", flush=True)
            return False
        return True

    def begin(self, left: list[int]) -> None:
        """Takes the next part off `left`, the tokens of each part that is left, which says how long all will take."""
        self._begun = self._begun or self.seconds
        self._at_hand, self._behind = left.pop(0), sum(left)

    def say(self, what: str, tokens: int = 0) -> None:
        """Prints a line; `tokens` were read for it."""
        self._read, self._at_hand = self._read + tokens, max(0, self._at_hand - tokens)
        left = ""
        if self._read:
            rest_s = (self._at_hand + self._behind) * (self.seconds - self._begun) / self._read
            left = f", about {min(rest_s, max(0, self.options.limit_s - self.seconds)):.0f} s left"
        print(f"{self.seconds:6.1f} s{left}  {what}", flush=True)


def config(method: str, window: int, device: str) -> EngineConfig:
    """Of "dense", "sparse N", "last N" (the own block and those just before it), "none", "ntk", "yarn", "clamped"."""
    kind, _, blocks = method.partition(" ")
    chunk = 8192 if device == "cuda" else 1024
    limits: dict[str, Any] = {"prefill_chunk": chunk, "max_batch_tokens": 2 * chunk, "device": device}
    if kind in ("sparse", "last"):
        local = int(blocks) if kind == "last" else 1
        sparse = SparseConfig(index_topk_blocks=int(blocks), index_local_blocks=local)
        return EngineConfig(attention="sparse", sparse=sparse, extend="none", max_context=window, **limits)
    if kind == "clamped":
        return EngineConfig(extend="clamped", max_context=window, **limits)
    return EngineConfig(attention="dense", extend="none" if kind == "dense" else kind, max_context=window, **limits)


def gate(run: Run) -> None:
    """Ends the program when what is measured is not what users get."""
    ids, close = run.texts["code"][: SMALLEST * 3 // 4], 0.1
    reader = run.load("dense", SMALLEST)
    [answer] = run.llm.generate([ids], SamplingParams(max_tokens=8, ignore_eos=True))
    written = torch.tensor(answer.token_ids)[:, None]
    logits_LV = reader.logits([*ids, *answer.token_ids], range(len(ids) - 1, len(ids) + 7)).cpu()
    if (
        logits_LV.amax(-1, keepdim=True) - logits_LV.gather(1, written)
    ).max() > close:  # bf16 may turn two that are level
        raise SystemExit(
            f"gate: the engine wrote {answer.text!r}, the reader puts other tokens next; nothing is printed"
        )
    dense = reader.nll(ids, range(len(ids) - 1))
    clamped = run.load("clamped", SMALLEST).nll(ids, range(len(ids) - 1))
    run.report["near_window"] = run.llm.config.near_window
    if (dense - clamped).abs().mean() > close:
        raise SystemExit("gate: within the near window clamped attention isn't dense attention; nothing is printed")
    run.say("gate passed")


def retention(run: Run, method: str) -> None:
    """NLL of the second half of the trained window."""
    for name, ids in run.texts.items():
        places = range(run.trained // 2, run.trained - 1, EVERY)
        value = float(run.load(method, run.trained).nll(ids[: run.trained], places).mean())
        run.report["retention"].setdefault(name, {})[method] = round(value, 4)
        run.say(f"NLL of {name} to {run.trained}, {method}: {value:.4f}", run.trained)


def find_keys(run: Run, method: str) -> None:
    """The share of keys that are found, by length and depth."""
    found: dict[str, dict[str, float]] = run.report["keys"].setdefault(method, {})
    for length in lengths_of(run, method):
        if found and not any(list(found.values())[-1].values()):
            return run.say(f"keys, {method}: none found before, so not asked at {length}")
        count = keys_of(run, length)
        if not run.has_time(f"keys at {length}, {method}"):
            return
        reader, hits = run.load(method, length), dict.fromkeys(needles.DEPTHS, 0)
        for seed in range(count):
            ids = list(run.texts.values())[seed % len(run.texts)]
            for depth in needles.DEPTHS:
                hits[depth] += needles.found(reader, needles.hide(run.llm, needles.LINE, ids, length, depth, seed))
        found[str(length)] = {str(depth): hits[depth] / count for depth in sorted(needles.DEPTHS)}
        run.say(
            f"keys at {length}, {method}: {sum(hits.values())} of {count * len(needles.DEPTHS)} found", count * length
        )


def nll_by_position(run: Run, method: str) -> None:
    """NLL of one long text, by where in it a token stands."""
    length = nll_length(run, method)
    if not run.has_time(f"NLL to {length}, {method}"):
        return
    for name, ids in run.texts.items():
        places = range(EVERY - 1, length - 1, EVERY)
        values = run.load(method, length).nll(ids[:length], places)
        parts = {
            str(stop): round(float(values[start // EVERY : stop // EVERY].mean()), 4) for start, stop in spans(length)
        }
        run.report["nll"].setdefault(name, {})[method] = parts
        run.say(f"NLL of {name} to {length}, {method}: {parts}", length)


def tokens_of(run: Run, part: Any, method: str) -> int:
    """About how many tokens a part reads: the keys of a length share what lies before them."""
    if part is find_keys:
        return sum(keys_of(run, length) * length for length in lengths_of(run, method))
    return len(run.texts) * (run.trained if part is retention else nll_length(run, method))


def lengths_of(run: Run, method: str) -> list[int]:
    """At which lengths keys are asked for."""
    past = method in ("none", "ntk", "yarn")
    return [n for n in sorted(run.options.lengths) if (n > run.trained) == past or method == "clamped"]


def keys_of(run: Run, length: int) -> int:
    """Keys that are asked for at each depth."""
    return max(1, min(run.options.keys, run.options.key_tokens // length))


def nll_length(run: Run, method: str) -> int:
    """How far the NLL by position goes."""
    length = min(run.longest, run.options.nll_up_to)
    return min(length, 4 * run.trained) if method in ("none", "ntk", "yarn") else length


def spans(length: int) -> Iterator[tuple[int, int]]:
    """From the start to 2,048, then doubling."""
    start, stop = 0, SMALLEST
    while stop <= length:
        yield start, stop
        start, stop = stop, 2 * stop


def table(report: dict[str, Any]) -> str:
    """Three tables, and what they are of."""
    lines = [
        f"{report['model']}, trained on {report['trained']:,} tokens, on {report['device']}, bf16; clamped reads "
        f"{report['near_window']:,} near tokens and 16 far blocks. Blocks of 128 are chosen by the model's own keys.",
        "",
        f"NLL of the second half of {report['trained']:,} tokens, and of dense:",
        "",
        "| text | " + " | ".join(next(iter(report["retention"].values()))) + " |",
    ]
    lines.append("|---" * lines[-1].count(" | ") + "|---|")
    for name, values in report["retention"].items():
        dense = values["dense"]
        lines.append(f"| {name} | " + " | ".join(f"{v:.3f} ({v / dense:.3f})" for v in values.values()) + " |")
    lengths = sorted({int(length) for found in report["keys"].values() for length in found})
    lines += ["", "Keys found, all depths together:", "", "| method | " + " | ".join(f"{n:,}" for n in lengths) + " |"]
    lines.append("|---" * (len(lengths) + 1) + "|")
    for method, found in report["keys"].items():
        cells = [f"{100 * mean(found[str(n)]):.0f}%" if str(n) in found else "" for n in lengths]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    for name, methods in report["nll"].items():
        stops = sorted({int(stop) for parts in methods.values() for stop in parts})
        lines += [
            "",
            f"NLL of {name} by position, up to:",
            "",
            "| method | " + " | ".join(f"{n:,}" for n in stops) + " |",
        ]
        lines.append("|---" * (len(stops) + 1) + "|")
        for method, parts in methods.items():
            cells = [f"{parts[str(n)]:.3f}" if str(n) in parts else "" for n in stops]
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def mean(depths: dict[str, float]) -> float:
    return sum(depths.values()) / len(depths)


if __name__ == "__main__":
    main()
