"""Whether an agent works on a task, or a pipeline: what the user wants, else what a calibration of the model says."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from minimax_code.errors import InputError
from minimax_code.events import StrategyChosen
from minimax_code.model import Model
from minimax_code.skills.calibration import calibrate, known_calibration

Wanted = Literal["auto", "agent", "pipeline"]
STRATEGIES: tuple[Wanted, ...] = get_args(Wanted)

CALIBRATOR = "calibration"
"""What asks the model its questions, as the events say it."""


def check_strategy(wanted: str) -> None:
    """Refuses what is none.

    Raises:
        InputError: it is none.
    """
    if wanted not in STRATEGIES:
        raise InputError("strategy", f"{wanted!r} is none; there are {', '.join(STRATEGIES)}")


async def choose(wanted: Wanted, *, model: Model, cache: Path | None) -> StrategyChosen:
    """The strategy of a task. Only where a calibration is needed and there is none is the model asked.

    Raises:
        ModelError: the model can't be asked.
        BudgetError: there isn't enough left for a calibration.
    """
    await model.abilities()  # its server may only now tell its name
    found = known_calibration(model.name, cache) if cache else None
    if wanted != "auto":
        known = found.model_dump(mode="json") if found else {}
        return StrategyChosen(strategy=wanted, reason="asked", calibration=known)
    reason: Literal["known", "calibrated"] = "known" if found else "calibrated"
    found = found or await calibrate(model, cache)
    return StrategyChosen(strategy=found.strategy, reason=reason, calibration=found.model_dump(mode="json"))
