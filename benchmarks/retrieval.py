"""How well a text finds its place in a context by the model's keys, against BM25 on the same windows, and how fast.

    python -m benchmarks.retrieval [--tokens 7500] [--contexts 3] [--metrics cosine] [--speed 32768]

Functions: the source of this package without docstrings and comments, cut into contexts; the first paragraph of a
function's docstring must find its lines. Facts: sentences planted in such a context are asked for in other words.
Recall is the share of the function's tokens among the k found, MRR the mean reciprocal rank of the first span that
holds half of it, or 16 tokens. The layers that are compared were chosen on functions of the standard library (LOG.md),
not on these.
"""

from __future__ import annotations

import argparse
import ast
import math
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openm3
from benchmarks.machine import describe, save
from openm3 import hub
from openm3.config import EngineConfig
from openm3.context.files import Collection, ContextFile
from openm3.context.manager import ContextManager
from openm3.context.retrieval import METRICS, nearest, retrieve
from openm3.engine.llm import LLM
from openm3.engine.prompt import Prompt
from openm3.model.nearest import WINDOW, Metric

FACTS = (
    ("The ferry to the island leaves at a quarter past six from the western pier.", "when does the boat depart"),
    ("Marta keeps the spare key under the third flower pot.", "where is the second key hidden"),
    ("The old lighthouse was repainted in red during the summer of 1954.", "colour of the tower by the sea"),
    ("Doctor Okafor treats horses and cows but no cats.", "which animals does the vet look after"),
    ("Our bakery sells its last loaf of rye bread before noon.", "until what time can one buy bread"),
    ("The mountain hut has room for twenty guests and two dogs.", "how many people can sleep up there"),
    ("Rainwater from the roof is collected in a barrel behind the shed.", "where does the water go when it is wet"),
    ("The violin teacher moved to Lisbon after her husband died.", "musician who went to Portugal"),
    ("Every Thursday the library lends films free of charge.", "borrowing movies without paying"),
    ("The bridge carries lorries of at most seven tons.", "heaviest truck allowed to cross the river"),
)


@dataclass(frozen=True)
class Sought:
    """A query, and the tokens `start` to `stop - 1` of the context that it should find."""

    query: str
    start: int
    stop: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=7500, help="of a context")
    parser.add_argument("--contexts", type=int, default=3)
    parser.add_argument("--metrics", nargs="+", choices=METRICS, default=METRICS)
    parser.add_argument("--speed", type=int, default=32768, help="tokens whose queries are timed; 0: none")
    options = parser.parse_args()
    llm = LLM(hub.pull("default"))
    functions: dict[str, list[tuple[float, float, float]]] = {}
    facts: dict[str, list[tuple[float, float, float]]] = {}
    texts = [(path, *stripped(path.read_text())) for path in sorted(Path(openm3.__file__).parent.rglob("*.py"))]
    for number, group in enumerate(grouped(llm, texts, options.tokens)):
        if number == options.contexts:
            break
        context = ContextManager(llm)
        context.read(Collection(tuple(ContextFile(str(path), path, text) for path, text, _ in group), ()))
        lines = [(str(path), *function) for path, _, found in group for function in found]
        measure(context, [located(context, *line) for line in lines], options.metrics, functions)
        if number == 0:
            planted, sought = with_facts("".join(text for _, text, _ in group))
            context.read(Collection((ContextFile("notes", Path("notes"), planted),), ()))
            measure(context, [located(context, "notes", *each) for each in sought], options.metrics, facts)
    report: dict[str, Any] = {"benchmark": "retrieval", "machine": describe(), "tokens": options.tokens}
    rows = []
    for what, results in (("functions", functions), ("facts", facts)):
        for method, values in results.items():
            recall_256, recall_1024, rank = (sum(column) / len(values) for column in zip(*values, strict=True))
            report[f"{what} {method}"] = [round(value, 3) for value in (recall_256, recall_1024, rank)]
            rows.append(f"| {what} ({len(values)}) | {method} | {recall_256:.3f} | {recall_1024:.3f} | {rank:.3f} |")
    head = "| queries | by | recall@256 | recall@1024 | MRR |\n|---|---|---|---|---|"
    table = "\n".join([head, *rows])
    if options.speed:
        report["speed"] = speed(options.speed)
        table += f"\n\nA query over {options.speed:,} tokens that were read before: {report['speed']['query_s']:.3f} s."
    save("retrieval", report, table)


def measure(
    context: ContextManager,
    sought: Sequence[Sought],
    metrics: Sequence[Metric],
    into: dict[str, list[tuple[float, float, float]]],
) -> None:
    """Adds recall at 256 and 1024 tokens and the reciprocal rank of each query, by both methods."""
    assert context.prompt is not None
    num_tokens = len(context.prompt.ids)
    lexical = BM25([context.text(start, start + WINDOW) for start in range(0, num_tokens - WINDOW // 2, WINDOW // 2)])
    for each in sought:
        scores = lexical.scores(each.query)
        for metric in metrics:
            small, large = (
                [(found.start, found.stop) for found in context.retrieve(each.query, k, metric)] for k in (256, 1024)
            )
            into.setdefault(f"keys, {metric}", []).append(judged(each, small, large))
        small, large = ([(start, stop) for start, stop, _ in nearest(scores, num_tokens, k)] for k in (256, 1024))
        into.setdefault("BM25", []).append(judged(each, small, large))


def judged(
    sought: Sought, small: Sequence[tuple[int, int]], large: Sequence[tuple[int, int]]
) -> tuple[float, float, float]:
    length = sought.stop - sought.start

    def inside(span: tuple[int, int]) -> int:
        return max(min(span[1], sought.stop) - max(span[0], sought.start), 0)

    ranks = [rank for rank, span in enumerate(large, start=1) if inside(span) >= min(16, length / 2)]
    recalls = [sum(map(inside, spans)) / min(length, k) for spans, k in ((small, 256), (large, 1024))]
    return recalls[0], recalls[1], 1 / ranks[0] if ranks else 0.0


class BM25:
    """The usual lexical baseline (Robertson and Zaragoza, 2009) over the words of each window; names are cut."""

    def __init__(self, texts: Sequence[str], k1: float = 1.2, b: float = 0.75) -> None:
        self._counts = [Counter(words(text)) for text in texts]
        holding = Counter(word for counts in self._counts for word in counts)
        self._weight = {w: math.log(1 + (len(texts) - n + 0.5) / (n + 0.5)) for w, n in holding.items()}
        mean = sum(counts.total() for counts in self._counts) / len(texts)
        self._norm = [k1 * (1 - b + b * counts.total() / mean) for counts in self._counts]
        self._k1 = k1

    def scores(self, query: str) -> list[float]:
        asked = [word for word in words(query) if word in self._weight]
        return [
            sum(self._weight[w] * counts[w] * (self._k1 + 1) / (counts[w] + norm) for w in asked)
            for counts, norm in zip(self._counts, self._norm, strict=True)
        ]


def words(text: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", text)]


def stripped(source: str) -> tuple[str, list[tuple[str, int, int]]]:
    """A module without docstrings and comments, and of its functions that had one: its beginning and their lines."""
    tree = ast.parse(source)
    docs = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            doc = ast.get_docstring(node)
            if doc is not None:
                node.body = node.body[1:] or [ast.Pass()]
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                docs.append(" ".join((doc or "").split("\n\n")[0].split()))
    text = ast.unparse(tree) + "\n"
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return text, [
        (doc, function.lineno, function.end_lineno or function.lineno)
        for doc, function in zip(docs, functions, strict=True)
        if len(doc.split()) >= 5 and (function.end_lineno or 0) - function.lineno >= 2
    ]


def grouped(llm: LLM, texts: Sequence[tuple[Path, str, Any]], most: int) -> Iterator[list[tuple[Path, str, Any]]]:
    """Modules that together are a context, in their order."""
    group: list[tuple[Path, str, Any]] = []
    total = 0
    for each in texts:
        count = len(llm.encode(each[1])) + 32  # with the line of its path
        if group and total + count > most:
            yield group
            group, total = [], 0
        if count <= most:
            group.append(each)
            total += count


def with_facts(text: str) -> tuple[str, list[tuple[str, int, int]]]:
    """The text with a fact after every so many lines, and what asks for each."""
    lines, sought = text.splitlines(), []
    step = len(lines) // len(FACTS)
    for number, (fact, query) in enumerate(FACTS):
        at = number * (step + 1) + step // 2
        lines.insert(at, f"# {fact}")
        sought.append((query, at + 1, at + 1))
    return "\n".join(lines) + "\n", sought


def located(context: ContextManager, path: str, query: str, first: int, last: int) -> Sought:
    """Which tokens of the context some lines of a file are."""
    assert context.prompt is not None and context.prompt.sources is not None
    sources, count = context.prompt.sources, len(context.prompt.ids)
    [file] = [span for span in sources.locate(0, count) if span.path == path]
    text = next(passage.text for passage in sources.passages if passage.path == path)
    offsets = [0]
    for line in text.splitlines(keepends=True):
        offsets.append(offsets[-1] + len(line.encode()))
    tokens, at = [], 0
    for token in range(file.start, file.stop):
        size = len(context.llm.tokenizer.token_bytes(context.prompt.ids[token]))
        if at + size > offsets[first - 1] and at < offsets[last]:
            tokens.append(token)
        at += size
    return Sought(query, tokens[0], tokens[-1] + 1)


def speed(num_tokens: int) -> dict[str, float]:
    """Seconds of a query over a context of this length that was read before: the least of five."""
    window = num_tokens + 256
    llm = LLM(hub.pull("default"), EngineConfig(attention="sparse", max_context=window))
    library = Path(ast.__file__).parent
    ids = llm.encode("".join(path.read_text() for path in sorted(library.glob("*.py"))[:60]))[:num_tokens]
    context, samples = Prompt(ids), []
    retrieve(llm, context, "the first reads")
    for i in range(5):
        started = time.perf_counter()
        retrieve(llm, context, f"parses the arguments of the command line {i}")
        samples.append(time.perf_counter() - started)
    return {"tokens": num_tokens, "query_s": min(samples)}


if __name__ == "__main__":
    main()
