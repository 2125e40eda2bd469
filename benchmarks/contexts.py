"""Contexts that are asked again, restarted, and larger than memory.

    python -m benchmarks.contexts [--tokens 32768] [--long 262144] [--cache-gb 2] [--m3 LAYERS]
                                  [--index-branch FOLDER] [--folder DIR]

Each figure is of a process of its own, because peaks of memory are wanted (VmHWM, mapped files included):

- read: reads `--tokens`, answers, answers a second question over the same text, and keeps the context on disk.
- restart: a new process loads it and answers: the first token, and how long loading took.
- spilled: reads `--long` tokens with `--cache-gb` of memory and the rest in a file; the time per token at the start, at
  128K and at the end; then decodes behind a second question, and keeps the context.
- in memory: loads that context with all of it in memory, and decodes the same. Its tokens have to be the spilled ones.

`--long 0` leaves the last two out. Positions go on as within the trained window (`extend` none). The gate: spilled,
kept and plain engines give the same greedy tokens, else nothing is printed. Text is Python source of the standard
library. `--m3 LAYERS` takes a random model of M3's attention geometry instead (64 query heads, 4 of keys, head size
128, an index branch in every layer) with random tokens.

On two quiet cores of a Zen 5: 32K tokens of the default model take 40 s, 256K a quarter of an hour and 14 GB on disk.
The scan of blocks is quadratic: `--m3 1 --tokens 4096 --long 1048448 --cache-gb 2` takes 3/4 h, and 5 GB on disk.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.machine import describe, save
from openm3 import hub
from openm3.config import EngineConfig
from openm3.config.presets import preset
from openm3.context.files import Collection, ContextFile
from openm3.context.store import Store
from openm3.engine import contexts
from openm3.engine.llm import LLM
from openm3.engine.output import Delta, Progress
from openm3.engine.params import SamplingParams
from openm3.engine.prompt import Prompt
from openm3.model.create import write_checkpoint
from openm3.text.byte_level import write_byte_tokenizer

DECODED = 24
ROOM = 128  # for questions and answers
STRETCH = 4096  # tokens over which a time per token is taken
FILES = Collection((ContextFile("text", Path("/text"), "text"),), ())
GREEDY = SamplingParams(max_tokens=DECODED, ignore_eos=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--long", type=int, default=262144)
    parser.add_argument("--cache-gb", type=float, default=2.0)
    parser.add_argument("--index-branch", default="auto", help="by what blocks are chosen: a folder, auto or none")
    parser.add_argument("--m3", type=int, metavar="LAYERS")
    parser.add_argument("--folder", type=Path, help="for contexts, spilled files and the random model")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(run(**json.loads(options.child))))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        model = str(random_m3(folder / "m3", options.m3) if options.m3 else hub.pull("default"))
        common = {"model": model, "folder": name, "sparse": not options.m3, "index_branch": options.index_branch}
        gate(common)
        report: dict[str, Any] = {
            "benchmark": "contexts",
            "machine": describe(),
            "model": f"random M3, {options.m3} layers" if options.m3 else Path(model).stem,
            "tokens": options.tokens,
            "read": child(**common, tokens=options.tokens, keep="short"),
            "restart": child(**common, tokens=options.tokens, load="short"),
        }
        if options.long:
            long = {**common, "tokens": options.long}
            report |= {"long": options.long, "cache_gb": options.cache_gb}
            report["spilled"] = child(**long, cache_gb=options.cache_gb, keep="long")
            report["in_memory"] = child(**long, load="long")
            check_equal(report["spilled"], report["in_memory"])
        save("contexts-m3" if options.m3 else "contexts", report, table(report))


def gate(common: dict[str, Any]) -> None:
    """Refuses to go on when memory, file and store disagree."""
    plain = child(**common, tokens=3000, keep="gate")
    spilled = child(**common, tokens=3000, cache_gb=0.05 if common["sparse"] else 0.004)  # most values are in the file
    check_equal(plain, spilled)
    check_equal(plain, child(**common, tokens=3000, load="gate"))


def check_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    if one.pop("answer") != other["answer"]:
        raise SystemExit("gate: two engines gave different tokens; no speed is printed")
    one["answer"] = other["answer"]


def child(**plan: Any) -> dict[str, Any]:
    """What `run` says in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.contexts", "--child", json.dumps(plan)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run(
    *,
    model: str,
    folder: str,
    sparse: bool,
    index_branch: str,
    tokens: int,
    cache_gb: float | None = None,
    load: str | None = None,
    keep: str | None = None,
) -> dict[str, Any]:
    """Reads or loads a context, asks twice, and keeps it where it has a name."""
    spilling = {"spill": True, "spill_dir": folder, "cache_bytes": int(cache_gb * (1 << 30))} if cache_gb else {}
    started = time.perf_counter()
    attention: Literal["sparse", "auto"] = "sparse" if sparse else "auto"
    options: dict[str, Any] = {"max_context": tokens + ROOM, "extend": "none", "index_branch": index_branch, **spilling}
    llm = LLM(model, EngineConfig(attention=attention, **options))
    out: dict[str, Any] = {"model_s": time.perf_counter() - started}
    ids = text(llm, tokens) if sparse else random_tokens(llm, tokens)
    store = Store(Path(folder) / "contexts")
    started = time.perf_counter()
    if load:
        with store.open(load) as context:
            contexts.load(llm, context)
            out |= {"load_s": time.perf_counter() - started, "context_gb": context.num_bytes / 1e9}
    for number in (1, 2):
        first_s, decode_ms, answer, per_token = ask(llm, [*ids, *range(40 + number, 60)])
        out |= {f"first_token_{number}_s": first_s, f"decode_{number}_ms": decode_ms, "answer": answer}
        if number == 1 and not load:
            out["ms_per_token"] = per_token
    if load:
        out["restart_s"] = out["load_s"] + out["first_token_1_s"]
    out["peak_gb"] = peak_gb()
    if keep:
        started = time.perf_counter()
        contexts.save(llm, store, keep, Prompt(ids), FILES)
        out["save_s"] = time.perf_counter() - started
        out["peak_with_saving_gb"] = peak_gb()
    return out


def ask(llm: LLM, prompt: list[int]) -> tuple[float, float, list[int], dict[str, float]]:
    """Seconds to the first token, ms of a decoded one (median), the answer, and ms per token read at some places."""
    started = time.perf_counter()
    _, events = llm.stream(prompt, GREEDY)
    read, times, answer = [(0, started)], [], []
    for event in events:
        now = time.perf_counter()
        if isinstance(event, Progress):
            read.append((event.num_read, now))
            if event.num_read // (64 * 1024) > read[-2][0] // (64 * 1024):
                print(f"{event.num_read:,} tokens after {now - started:.0f} s", file=sys.stderr, flush=True)
        elif isinstance(event, Delta):
            times.append(now)
            answer.append(event.token_id)
    steps = [1000 * (b - a) for a, b in pairwise(times)]
    places = {"start": STRETCH, "128K": 128 * 1024, "end": read[-1][0]}
    return times[0] - started, statistics.median(steps), answer, {
        name: stretch(read, stop) for name, stop in places.items() if stop <= read[-1][0]
    }  # fmt: skip


def stretch(read: Sequence[tuple[int, float]], stop: int) -> float:
    """ms per token over the last `STRETCH` tokens before `stop`."""
    before = [(count, when) for count, when in read if count <= stop]
    first = next((count, when) for count, when in before if count >= before[-1][0] - STRETCH)
    return 1000 * (before[-1][1] - first[1]) / max(before[-1][0] - first[0], 1)


def text(llm: LLM, count: int) -> list[int]:
    """Tokens of real Python source: the standard library's."""
    ids: list[int] = []
    for file in sorted(Path(argparse.__file__).parent.rglob("*.py")):
        if "site-packages" not in file.parts and len(ids) < count:
            ids += llm.encode(file.read_text(encoding="utf-8", errors="replace"))
    assert len(ids) >= count, "the standard library is too short for this context"
    return ids[:count]


def random_tokens(llm: LLM, count: int) -> list[int]:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, llm.tokenizer.vocab_size - 20, (count,), generator=generator).tolist()


def random_m3(path: Path, num_layers: int) -> Path:
    """A random model with M3's attention and next to nothing else."""
    raw = preset("m3")
    sparse = raw["text_config"]["sparse_attention_config"]
    every = [1] * num_layers
    sparse.update(sparse_attention_freq=every, sparse_disable_index_value=every)
    raw["text_config"].update(
        vocab_size=273, hidden_size=256, num_hidden_layers=num_layers, moe_layer_freq=every, intermediate_size=128,
        dense_intermediate_size=256, shared_intermediate_size=128, num_local_experts=4, num_experts_per_tok=2,
        max_position_embeddings=1 << 20,
    )  # fmt: skip
    write_checkpoint(path, raw)
    write_byte_tokenizer(path, 273)
    return path


def peak_gb() -> float:
    """The most memory that was resident, from /proc; this benchmark is for Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e9


def table(report: dict[str, Any]) -> str:
    read, restart = report["read"], report["restart"]
    first = read["first_token_1_s"]
    lines = [
        f"{report['model']}, {report['tokens']:,} tokens: first token after {first:.1f} s",
        f"second question {read['first_token_2_s']:.3f} s ({read['first_token_2_s'] / first:.1%}); after a restart "
        f"{restart['restart_s']:.3f} s ({restart['restart_s'] / first:.1%}), {restart['load_s']:.3f} s of it loading "
        f"{restart['context_gb']:.2f} GB",
    ]
    if "spilled" not in report:
        return "\n".join(lines)
    lines += [
        "",
        f"{report['long']:,} tokens, {report['cache_gb']:g} GiB of memory for the cache",
        "",
        "| | first token s | read ms per token: start, 128K, end | decode ms | peak GB |",
        "|---|---|---|---|---|",
    ]
    for name in ("spilled", "in_memory"):
        row = report[name]
        places = ", ".join(f"{key} {value:.2f}" for key, value in row.get("ms_per_token", {}).items())
        lines.append(
            f"| {name} | {row['first_token_1_s']:.1f} | {places} | {row['decode_2_ms']:.1f} | {row['peak_gb']:.2f} |"
        )
    ratio = report["spilled"]["decode_2_ms"] / report["in_memory"]["decode_2_ms"]
    return "\n".join([*lines, "", f"decoding spilled takes {ratio:.2f}x the time of all in memory"])


if __name__ == "__main__":
    main()
