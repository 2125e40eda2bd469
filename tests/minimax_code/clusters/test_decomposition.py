"""What a model makes of a task, and what we make of that."""

from __future__ import annotations

import pytest
from hypothesis import given as generated
from hypothesis import strategies as st

from minimax_code.clusters import Subtask, TaskRouter
from minimax_code.clusters.decomposition import given, problems, read, repaired
from minimax_code.errors import InputError, ModelError
from minimax_code.model import Abilities
from minimax_code.testing import ScriptedModel

from .conftest import NewCluster, answer, subtask


@pytest.mark.parametrize(
    "text",
    [
        '[{"id": 1, "description": "x"}]',
        'Here they are:\n```json\n[{"id": "1", "description": "x"}]\n```\nGood luck!',
        'Sure: [{"id": "1", "description": "x"}] That is all.',
        '{"subtasks": [{"id": "1", "description": "x", "note": "more than asked"}]}',
    ],
)
def test_answers_are_read_as_models_write_them(text: str) -> None:
    assert read(text) == [Subtask(id="1", description="x")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("I can't do that.", "no JSON array"),
        ("[]", "no JSON array"),
        ("[" * 100_000, "no JSON array"),
        ('[{"id": "1"}]', "sub-task 1: description: field required"),
        ('["Write the code"]', "sub-task 1: value: input should be"),
        (
            '[{"id": "1", "description": "x", "estimated_duration": 0}]',
            "sub-task 1: estimated_duration: input should be",
        ),
        ("[" + ", ".join(['{"id": "1", "description": "x"}'] * 101) + "]", "101 sub-tasks are too many"),
    ],
)
def test_what_cannot_be_read_is_told(text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read(text)


def test_problems_are_named() -> None:
    subtasks = read(
        answer(subtask("a", "c"), subtask("b", "a"), subtask("c", "b"), subtask("c", "x"), subtask("s", "s"))
    )
    assert problems(subtasks, None) == [
        "the id 'c' is there 2 times",
        "'c' depends on 'x', which is not there",
        "s -> s is a cycle",
    ]
    cycle = read(
        answer(subtask("a", "c"), subtask("b", "a"), subtask("c", "b", required_capabilities=["cobol", "CSS"]))
    )
    assert problems(cycle, ["css"]) == ["'c' requires 'cobol', which no agent has", "a -> c -> b -> a is a cycle"]


def test_the_model_is_told_and_asked_again(new_cluster: NewCluster) -> None:
    good = answer(subtask("a", required_capabilities=["python"]), subtask("b", "a"))
    model = ScriptedModel(["Well...", answer(subtask("a", "b"), subtask("b", "a")), good])
    cluster = new_cluster(model=model)
    found = cluster.decompose_task("Add {capabilities} and a discount")
    assert [(one["id"], one["dependencies"]) for one in found] == [("a", []), ("b", ["a"])]
    assert cluster.task_router.notes == []
    first, second, third = (request.messages for request in model.requests)
    assert "Task: Add {capabilities} and a discount" in first[0].content
    assert "know about: PostgreSQL, Python, css, pytest, python, react" in first[0].content
    assert "there is no JSON array" in second[-1].content
    assert "a -> b -> a is a cycle" in third[-1].content and len(third) == 3
    assert model.requests[0].json_schema is not None


def test_what_stays_wrong_is_repaired_and_said(new_cluster: NewCluster) -> None:
    wrong = [
        subtask("a", "c", "x", required_capabilities=["postgres", "cobol"]),
        subtask("b", "a"),
        subtask("b", "b"),
        subtask("c", "b"),
    ]
    cluster = new_cluster(model=ScriptedModel([answer(*wrong)] * 3))
    found = cluster.decompose_task("Everything")
    assert [(one["id"], one["dependencies"]) for one in found] == [
        ("a", ["c"]),
        ("b", []),
        ("b-2", ["b"]),
        ("c", ["b"]),
    ]
    assert found[0]["required_capabilities"] == ["PostgreSQL"]
    assert cluster.task_router.notes == [
        "the second 'b' is called 'b-2'",
        "'a' no longer depends on 'x', which is not there",
        "'a' requires 'PostgreSQL' instead of 'postgres'",
        "'a' no longer requires 'cobol', which no agent has",
        "'b' no longer depends on 'a', which depends on it",
    ]


NAMES = st.sampled_from("abcdef")


@generated(st.lists(st.tuples(NAMES, st.lists(NAMES | st.just("x"))), min_size=1, max_size=8))
def test_repaired_is_without_problems(drawn: list[tuple[str, list[str]]]) -> None:
    subtasks = [Subtask.model_validate(subtask(name, *dependencies)) for name, dependencies in drawn]
    fixed, notes = repaired(subtasks, [])
    assert problems(fixed, []) == []
    assert len(fixed) == len(subtasks)
    assert bool(notes) == bool(problems(subtasks, []))
    again, more = repaired(fixed, [])
    assert (again, more) == (fixed, [])


def test_a_model_that_never_gives_a_list() -> None:
    model = ScriptedModel(["No."] * 2, abilities=Abilities(context_tokens=4096))
    with pytest.raises(ModelError, match=r"scripted doesn't split the task: there is no JSON array"):
        TaskRouter(model, attempts=2).decompose("Split this")
    assert model.requests[0].json_schema is None


def test_the_router_alone_gives_json() -> None:
    assert TaskRouter(ScriptedModel([answer(subtask("a"))])).decompose("Split this").startswith('[{"id": "a"')


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([{"id": "a"}], "tasks.0.description: field required"),
        ([subtask("a"), subtask("a")], "tasks: the id 'a' is there 2 times"),
        ([subtask("a", "b")], "tasks: 'a' depends on 'b', which is not there"),
        ([subtask("a", "b"), subtask("b", "a")], "tasks: a -> b -> a is a cycle"),
    ],
)
def test_what_a_user_gives_is_refused_by_its_field(tasks: list[dict[str, object]], message: str) -> None:
    with pytest.raises(InputError) as refused:
        given(tasks)
    assert str(refused.value).lower() == message.lower()
