"""A report as a page in Markdown, as JSON, and as pictures."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from openm3.errors import StoreError
from openm3.train.pictures import Line, Plot, draw
from openm3.train.report import Report


def write(report: Report, folder: Path) -> list[Path]:
    """Writes `report.json`, `report.md`, and `report.png` where matplotlib is installed; returns what was written.

    Raises:
        StoreError: the folder can't be written.
    """
    page, data, picture = (folder / f"report.{end}" for end in ("md", "json", "png"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        data.write_text(json.dumps(report, indent=1) + "\n")
        drawn = draw(plots(report), picture)
        page.write_text(markdown(report, picture.name if drawn else None))
    except OSError as error:
        raise StoreError(f"{folder}: can't be written ({error.strerror})") from error
    return [page, data, *([picture] if drawn else [])]


def markdown(report: Report, picture: str | None = None) -> str:
    """The page."""
    methods: dict[str, Any] = report["methods"]
    machine = ", ".join(f"{name} {value}" for name, value in report["machine"].items())
    parts = [f"# Sparse attention of {report['model']}", "", f"{report['date']}; {machine}.", "", *_made(report), ""]
    if picture:
        parts += [f"![The figures below]({picture})", ""]
    for name, about in report["data"].items():
        what = f"{about['documents']:,} documents, {about['bytes']:,} bytes, digest `{about['digest']}`. {_ABOUT_NLL}"
        parts += [f"## NLL of {name}", "", what, ""]
        dense = methods.get("dense", {}).get("nll", {}).get(name, {})
        rows = {
            method: [_with_ratio(value, dense.get(length)) for length, value in figures["nll"][name].items()]
            for method, figures in methods.items()
        }
        parts += _table(["", *(f"{int(n):,} tokens" for n in report["config"]["lengths"])], rows)
    parts += _recall(methods)
    if report["config"]["num_keys"]:
        parts += ["## Keys found", "", _ABOUT_KEYS, ""]
        rows = {name: [f"{_mean(depths):.0%}" for depths in f["keys"].values()] for name, f in methods.items()}
        parts += _table(["", *(f"{n:,} tokens" for n in report["config"]["lengths"])], rows)
    if report["config"]["speed"]:
        parts += ["## Speed", "", f"Tokens a second at {report['config']['lengths'][-1]:,} tokens, one request.", ""]
        dense = methods.get("dense", {}).get("speed", {})
        rows = {
            name: [_with_ratio(value, dense.get(part), digits=0) for part, value in figures["speed"].items()]
            for name, figures in methods.items()
        }
        parts += _table(["", "prompt (of dense)", "answer (of dense)"], rows)
    return "\n".join(parts).rstrip("\n") + "\n"


_ABOUT_KEYS = (
    "Five random digits in a line of the text, asked for at its end; a hit is the greedy answer with all digits right. "
    "All depths together."
)
_ABOUT_NLL = "Nats a token, the mean over the second half of each length; in brackets as a part of dense attention's."
_ABOUT_RECALL = (
    "Means over query tokens and groups of heads, at the longest length. The best blocks are as many as are chosen, "
    "with the most attention mass by the layer's own queries and keys. Block recall: the share of them that is chosen. "
    "Mass recall: the mass of these, of what the best ones hold (the paper's score recall). Mass kept: the mass of all "
    "chosen blocks, of what the best ones hold. Mass read: of everything."
)
_RECALLS = {
    "block_recall": "block recall",
    "mass_recall": "mass recall",
    "mass_kept": "mass kept",
    "chosen_mass": "mass read",
}


def plots(report: Report) -> list[Plot]:
    """NLL over dense by length, mass recall by layer, and keys by length."""
    methods: dict[str, Any] = report["methods"]
    lengths = [float(n) for n in report["config"]["lengths"]]
    dense, found = methods.get("dense"), []
    for name in report["data"]:
        base = [1.0] * len(lengths) if dense is None else list(dense["nll"][name].values())
        lines = [
            Line(method, lengths, [a / b for a, b in zip(f["nll"][name].values(), base, strict=True)])
            for method, f in methods.items()
        ]
        what = "NLL" if dense is None else "NLL of dense attention's"
        found.append(Plot(name, "tokens", what, lines))
    with_recall = {method: f["recall"] for method, f in methods.items() if f["recall"]}
    found.append(
        Plot(
            "by layer",
            "layer",
            "mass recall",
            [Line(m, [float(i) for i in range(len(r))], [x["mass_recall"] for x in r]) for m, r in with_recall.items()],
        )
    )
    if report["config"]["num_keys"]:
        lines = [Line(m, lengths, [_mean(depths) for depths in f["keys"].values()]) for m, f in methods.items()]
        found.append(Plot("keys", "tokens", "found", lines))
    return [plot for plot in found if plot.lines]


def _made(report: Report) -> Iterable[str]:
    trained = f"The model (`{report['model_identity']}`) was trained on {report['trained_window']:,} tokens."
    branch = report["branch"]
    if branch is None:
        return [f"{trained} It has no index branch beside it."]
    index = branch["index"]
    sparse = index["sparse"]
    return [
        f"{trained} Its index branch (`{branch['identity']}`) has {index['index_n_heads']} query heads and "
        f"{index['index_n_key_heads']} key heads of {index['index_head_dim']}, made for {sparse['index_topk_blocks']} "
        f"blocks of {sparse['index_block_size']}; layers that read everything or choose by their own keys: "
        f"{sum(1 for on in index['sparse_attention_freq'] if not on)}.",
    ]


def _recall(methods: dict[str, Any]) -> list[str]:
    sparse = {name: figures["recall"] for name, figures in methods.items() if figures["recall"]}
    if not sparse:
        return []
    parts = ["## Recall", "", _ABOUT_RECALL, "", "The mean over layers:", ""]
    rows = {
        name: [f"{statistics.fmean(layer[key] for layer in layers):.3f}" for key in _RECALLS]
        for name, layers in sparse.items()
    }
    parts += _table(["", *_RECALLS.values()], rows)
    parts += ["Block recall / mass recall of each layer:", ""]
    num_layers = len(next(iter(sparse.values())))
    by_layer = {
        str(i): [f"{r[i]['block_recall']:.3f} / {r[i]['mass_recall']:.3f}" for r in sparse.values()]
        for i in range(num_layers)
    }
    return parts + _table(["layer", *sparse], by_layer)


def _table(head: Sequence[str], rows: dict[str, list[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return [*lines, *("| " + " | ".join([name, *cells]) + " |" for name, cells in rows.items()), ""]


def _with_ratio(value: float, dense: float | None, digits: int = 3) -> str:
    return f"{value:,.{digits}f}" + (f" ({value / dense:.3f})" if dense else "")


def _mean(depths: dict[str, float]) -> float:
    return statistics.fmean(depths.values())
