"""The learning rate over a run."""

from __future__ import annotations

import math

from openm3.train.run_config import TrainingSection


def share_of_peak(step: int, config: TrainingSection) -> float:
    """What the peak rate is multiplied by in a step, counted from 0.

    "wsd": warm-up, stable, decay (arXiv 2404.06395), the decay along a line.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "cosine":
        part = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
        return config.final_lr + (1 - config.final_lr) * (1 + math.cos(math.pi * part)) / 2
    left = config.steps - step
    return 1.0 if left >= config.decay_steps else config.final_lr + (1 - config.final_lr) * left / config.decay_steps
