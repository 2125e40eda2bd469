"""What a run of `openm3 train run` has learnt: its curve, the losses on held-out text, and what the model writes.

openm3 train run examples/train_tiny.toml --out ./run
python -m benchmarks.training ./run
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS, describe, save
from openm3.config import EngineConfig
from openm3.engine.llm import LLM
from openm3.engine.params import SamplingParams
from openm3.train.session import METRICS, rows_of

PROMPTS = ("def ", "import ", "class ")
NEW_TOKENS = 160


def main(folder: Path) -> None:
    """Writes the results of the run in a folder."""
    rows = rows_of(folder / METRICS)
    measured = [row for row in rows if "held_out_sparse" in row]
    llm = LLM(folder / "model", EngineConfig())
    params = [SamplingParams(max_tokens=NEW_TOKENS, temperature=0.5, seed=seed) for seed in range(len(PROMPTS))]
    samples = [prompt + llm.generate([prompt], p)[0].text for prompt, p in zip(PROMPTS, params, strict=True)]
    report = {"machine": describe(), "rows": rows, "samples": samples}
    save("training", report, _table(measured, samples, rows[-1]))
    if (folder / "training.png").exists():
        shutil.copyfile(folder / "training.png", RESULTS / f"{report['machine']['date']}-training.png")


def _table(measured: list[dict[str, Any]], samples: list[str], last: dict[str, Any]) -> str:
    lines = [
        f"{last['tokens']:,} tokens in {last['seconds'] / 60:.0f} minutes. NLL in nats a token, on held-out text.",
        "",
        "| step | tokens | dense | sparse | sparse / dense | KL | expert load, largest / mean |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in measured:
        dense, sparse = row["held_out_dense"], row["held_out_sparse"]
        losses = f"{dense:.4f} | {sparse:.4f} | {sparse / dense:.4f} | {row['kl']:.3f} | {row['expert_load']:.2f}"
        lines.append(f"| {row['step']} | {row['tokens']:,} | {losses} |")
    lines += ["", "Samples at temperature 0.5:"]
    for sample in samples:
        lines += ["", *(f"    {line}".rstrip() for line in sample.splitlines())]
    return "\n".join(lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
