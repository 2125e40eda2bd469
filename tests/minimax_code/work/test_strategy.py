"""How a task is worked on: by an agent or a pipeline, as asked or as a calibration of the model says."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from helpers.calibration import Clever
from minimax_code.errors import InputError
from minimax_code.events import AgentStarted, MemoryLog, ModelReplied, StrategyChosen, ToolEnded
from minimax_code.model import Reply, Request, ToolCall
from minimax_code.permissions import Permissions
from minimax_code.skills.calibration import known_calibration
from minimax_code.testing import Line
from minimax_code.work.result import TaskResult

from .conftest import DONE, PASS, PLAN, Breaking, DiedError, Shop, fix, last, task

RIGHT = "```python cart.py\ndef total(prices):\n    return sum(prices)\n```"
WRONG = "```python cart.py\ndef total(prices):\n    return 7\n```"


def chosen(log: MemoryLog) -> StrategyChosen:
    [event] = [one.event for one in log.recorded if isinstance(one.event, StrategyChosen)]
    return event


def clever(script: Iterable[str | ToolCall], *kinds: str) -> Iterator[Line]:
    """A model that answers a calibration as one does that is good at these kinds, and a task by a script."""
    lines, knows = iter(script), Clever(*kinds)

    def answer(request: Request) -> str | ToolCall | Reply:
        is_task = any("adds up the prices" in message.content for message in request.messages)
        return next(lines) if is_task else knows(request)

    return itertools.repeat(answer)


def replied(log: MemoryLog) -> list[str]:
    return [one.event.agent for one in log.recorded if isinstance(one.event, ModelReplied)]


def test_a_pipeline_keeps_the_answer_that_passes_the_checks(shop: Shop) -> None:
    log = MemoryLog()
    result = shop.run(task(), [WRONG, WRONG, WRONG, RIGHT, WRONG, PASS], log=log, strategy="pipeline")
    assert (result.state, result.success, result.strategy) == ("passed", True, "pipeline"), result
    assert result.files_changed == ("cart.py",)
    assert chosen(log).reason == "asked"
    assert set(replied(log)) == {"pipeline 1", "verifier 1"}, "it needs no plan"
    assert not any(request.tools for request in shop.model.requests[:-1])


def test_a_pipeline_writes_into_nothing_and_next_round_mends(shop: Shop) -> None:
    """Where there is nothing to change files are generated; what the checks say of them is told in the next round."""
    shop.lay_tests()
    (shop.folder / "cart.py").unlink()
    mends = task(checks=["pytest tests/test_cart.py"], constraints={"forbidden_paths": ["docs/*"]})
    shop.lay({"docs/a.md": "A\n"})
    forbidden = f"{RIGHT}\n\n```markdown docs/a.md\nB\n```"
    result = shop.run(mends, [*[WRONG] * 8, forbidden, PASS], strategy="pipeline")
    assert (result.success, result.deliverables) == (True, ("cart.py",)), result
    assert "def test_total" in last(shop.model.requests[0]).content, "it is shown what it will be measured by"
    assert "Round 1 of 3" in last(shop.model.requests[8]).content


def test_rules_hold_for_a_pipeline(shop: Shop) -> None:
    shop.lay({"secret.py": "KEY = 1\n"})
    answer = f"{RIGHT}\n\n```python vendor/a.py\nA = 1\n```"
    rules = Permissions.of("deny read(secret*)", "ask write(vendor/*)")
    result = shop.run(task(), [answer, PASS], strategy="pipeline", permissions=rules)
    assert (result.success, result.deliverables) == (True, ("cart.py",)), result
    assert "KEY" not in last(shop.model.requests[0]).content


def test_a_pipeline_that_finds_nothing_leaves_the_files_as_they_were(shop: Shop) -> None:
    result = shop.run(task(), [WRONG] * 16, strategy="pipeline", rounds=2)
    assert (result.state, result.deliverables, result.cost.calls) == ("failed", (), 16)


@pytest.mark.parametrize("kinds", [("whole",), ("whole", "native", "repairs", "judges")])
def test_the_calibration_decides_and_is_made_once(shop: Shop, tmp_path: Path, kinds: tuple[str, ...]) -> None:
    small, log = len(kinds) == 1, MemoryLog()
    script = [RIGHT] if small else [PLAN, fix(), DONE, PASS]
    options = {"strategy": "auto", "calibrations": tmp_path / "cache"}
    result = shop.run(task(), clever(script, *kinds), log=log, **options)
    assert (result.success, result.strategy) == (True, "pipeline" if small else "agent")
    assert chosen(log).reason == "calibrated"
    assert (asked := replied(log).count("calibration")) >= chosen(log).calibration["num_questions"] > 20
    assert result.cost.calls == asked + len(script), "what it has cost is part of the task's cost"
    assert known_calibration("scripted", tmp_path / "cache")
    if small:
        assert result.issues == ("no model has looked at the change: by its calibration it can't judge any",)

    shop.place, log = tmp_path / "again", MemoryLog()
    again = shop.run(task(), script, log=log, **options)
    assert (again.success, again.strategy, chosen(log).reason) == (True, result.strategy, "known")


def test_a_budget_holds_for_calibration_and_pipeline(shop: Shop) -> None:
    log = MemoryLog()

    def go_on(calls: int, *script: str) -> TaskResult:
        limited = task(constraints={"budget_limit": f"{calls} API calls"})
        return shop.run(limited, clever(script, "whole"), log=log, strategy="auto")

    result = go_on(9)
    assert (result.state, result.strategy, result.cost.calls) == ("budget", None, 9)
    result = go_on(30, WRONG, WRONG, WRONG, WRONG)
    assert (result.state, result.strategy, result.diff, result.cost.calls) == ("budget", "pipeline", "", 30)
    result = go_on(34, RIGHT, RIGHT, RIGHT, RIGHT)
    assert result.success, result
    assert result.cost.calls == len(replied(log)) <= 34, "what was answered before is not asked again"


def test_dying_between_any_two_events_asks_nothing_twice(shop: Shop, tmp_path: Path) -> None:
    log, deaths, num_asked = Breaking(MemoryLog(), 0), 0, 0
    while deaths < 30:
        log = Breaking(log, len(log.recorded) + 6 + deaths % 3)
        tried = sum(agent.startswith("pipeline") for agent in replied(log))
        script = clever([*[WRONG] * (5 - tried), *[RIGHT] * 9], "whole")
        try:
            result = shop.run(task(), script, log=log, strategy="auto", calibrations=tmp_path / "cache")
        except DiedError:
            deaths += 1
        else:
            break
        finally:
            num_asked += len(shop.model.requests)
    events = [one.event for one in log.recorded]
    assert 3 < deaths < 30, [type(event).__name__ for event in events]
    assert (result.success, result.strategy) == (True, "pipeline"), result
    assert sum(isinstance(event, ToolEnded) for event in events) == 1
    assert not any(isinstance(event, AgentStarted) for event in events)
    assert num_asked - result.cost.calls <= deaths * 4, "only what was being asked when it died"


def test_a_strategy_is_one_of_them_and_stays(shop: Shop) -> None:
    with pytest.raises(InputError, match=r"^strategy: 'best' can't be used; auto, agent, pipeline"):
        shop.run(task(), [], strategy="best")
    log = MemoryLog()
    assert shop.run(task(), [RIGHT, PASS], log=log, strategy="pipeline", rounds=1).success
    log._recorded.pop()
    with pytest.raises(InputError, match="the task is worked on by pipeline"):
        shop.run(task(), [], log=log, strategy="agent")
