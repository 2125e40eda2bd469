"""Tasks as users give them: the article's, and those that can't be used."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from minimax_code.contract import Check
from minimax_code.errors import InputError
from minimax_code.work.agent import Agent
from minimax_code.work.amounts import limits_of, percent_of, seconds_of
from minimax_code.work.task import Task


def test_the_article_s_constraints_are_understood() -> None:
    task = Task(
        description="Create a web scraper",
        requirements=["Rate limiting", "Provide CLI interface"],
        constraints={"max_execution_time": "30 minutes", "budget_limit": "100 API calls"},
    )
    assert task.limits == {"seconds": 1800.0, "calls": 100}
    assert task.text == "Create a web scraper\n\nRequirements:\n- Rate limiting\n- Provide CLI interface"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30 minutes", 1800),
        ("90s", 90),
        ("1.5 h", 5400),
        ("1 hour 30 minutes", 5400),
        ("2 days and 1 hour", 176_400),
        (timedelta(minutes=2), 120),
    ],
)
def test_durations(text: object, seconds: float) -> None:
    assert seconds_of("t", text) == seconds


@pytest.mark.parametrize(
    "text", ["30", 30, "soon", "", "0 minutes", "-5 minutes", "5 lightyears", "5 minutes later", None]
)
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(InputError, match=r"^constraints\.max_execution_time: "):
        seconds_of("constraints.max_execution_time", text)


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("100 API calls", {"calls": 100}),
        ("2M tokens", {"tokens": 2_000_000}),
        ("2,500,000 tokens and 5 dollars", {"tokens": 2_500_000, "money": 5}),
        ("40 requests, $1.50", {"calls": 40, "money": 1.5}),
    ],
)
def test_budgets(text: str, limits: dict[str, float]) -> None:
    assert limits_of("b", text) == limits


@pytest.mark.parametrize(
    "text", ["100", 100, "a lot", "5 euros", "10 calls, 20 calls", "0 calls", "", "10 calls or so"]
)
def test_what_is_no_budget_is_refused(text: object) -> None:
    with pytest.raises(InputError, match="^b: "):
        limits_of("b", text)


@pytest.mark.parametrize("share", [True, 101, "-1", "most", None])
def test_what_is_no_share_is_refused(share: object) -> None:
    with pytest.raises(InputError, match="^c: "):
        percent_of("c", share)


def test_the_shorter_of_two_times_holds() -> None:
    task = Task(description="x", max_duration_days=1, constraints={"max_execution_time": "2 hours"})
    assert task.limits == {"seconds": 7200}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "description: field required"),
        ({"description": "  "}, "description: is empty"),
        ({"description": "x", "constraint": {}}, "constraint: extra inputs"),
        ({"description": "x", "constraints": {"max_time": "1 h"}}, "constraints.max_time: .* max_execution_time"),
        ({"description": "x", "constraints": {"budget": 5}}, "constraints.budget: .* budget_limit"),
        ({"description": "x", "constraints": {"forbidden_paths": "a"}}, "constraints.forbidden_paths: "),
        ({"description": "x", "constraints": {"min_coverage": "all"}}, "constraints.min_coverage: "),
        ({"description": "x", "checks": ["pytest 'a"]}, "checks.0: .* is no command"),
        ({"description": "x", "checks": [" "]}, "checks.0: is empty"),
        ({"description": "x", "mode": "yolo"}, "mode: input should be"),
        ({"description": "x", "max_duration_days": 0}, "max_duration_days: input should be greater"),
        ({"description": "x", "requirements": "fast"}, "requirements: "),
    ],
)
def test_a_task_that_can_t_be_used_names_the_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        Task(**fields)


def test_a_task_survives_being_stored() -> None:
    task = Task(
        description="x",
        requirements=["fast"],
        checks=["pytest -q 'a b'", Check(command=("make",), exit_code=2)],
        constraints={"forbidden_paths": ["docs/*"], "min_coverage": "80%"},
        agent=Agent(name="Ada", role="Engineer", expertise=["Python"]),
        notification_callback=print,
    )
    again = Task.model_validate_json(task.model_dump_json())
    assert again.commands == (Check(command=("pytest", "-q", "a b")), Check(command=("make",), exit_code=2))
    assert (again.forbidden, again.min_coverage, again.requirements) == (("docs/*",), 80, ("fast",))
    assert again.agent == task.agent
    assert again.notification_callback is None


def test_an_agent_has_a_name_and_a_role() -> None:
    agent = Agent(name="Backend Developer", role="Backend Engineer", expertise=["Python", "FastAPI"])
    assert agent.text == "You are Backend Developer, the Backend Engineer of a team. You know about Python, FastAPI."
    with pytest.raises(InputError, match="^role: is empty"):
        Agent(name="A", role=" ")


def test_more_comes_on_top_of_the_limits() -> None:
    limits = {"budget_limit": "10 API calls, $1.5", "max_execution_time": "1 minute"}
    task = Task(description="x", constraints=limits, max_duration_days=1)
    assert task.with_more(budget="5 calls", time="30s").limits == {"calls": 15, "money": 1.5, "seconds": 90}
    assert task.with_more(budget="$2", time="12 hours").max_duration_days == 1.5
    assert Task(**task.with_more(budget="5 calls").model_dump()).limits["calls"] == 15
    for more, told in (({"budget": "1k tokens"}, "^budget: .* no limit on tokens"), ({"budget": "5"}, "^budget: ")):
        with pytest.raises(InputError, match=told):
            task.with_more(**more)
    with pytest.raises(InputError, match="^time: .* no limit on time"):
        Task(description="x").with_more(time="1 hour")


def test_what_is_no_text_is_refused() -> None:
    for field, fields in {
        "description": {"description": "caf\udce9"},
        "requirements": {"description": "Mend it", "requirements": ["caf\udce9"]},
    }.items():
        with pytest.raises(InputError, match=f"^{field}: has bytes that are no text"):
            Task(**fields)
