"""The best of some answers, by running them; never a worse one than the first."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from helpers.benches import MakeBench
from minimax_code.errors import InputError, ModelError
from minimax_code.skills.answer import Wish
from minimax_code.skills.calibration import Calibration
from minimax_code.skills.checks import Checks
from minimax_code.skills.effort import Effort
from minimax_code.skills.generate import generate
from minimax_code.skills.solution import Solution
from minimax_code.testing import ScriptedModel
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.files import CodeFile

EXAMPLE = "Write double(x).\n>>> double(2)\n4\n>>> double(0)\n0\n"
ADD, SQUARE, TIMES = "return x + x", "return x * x", "return x * 2"
TEST = CodeFile("test_it.py", "from main import double\n\ndef test_it():\n    assert double(5) == 10\n")


def answer(body: str, path: str = "main.py") -> str:
    return f"Here:\n```python {path}\ndef double(x: int):\n    {body}\n```"


def run(
    bench: Workbench | None, script: Sequence[Any], prompt: str = EXAMPLE, *, candidates: int = 8, **how: Any
) -> tuple[Solution, ScriptedModel]:
    model = ScriptedModel(script)
    effort = Effort(candidates=candidates, calibration=Calibration(model="scripted", **how.pop("known", {})))
    wish = Wish(prompt=prompt, language="python", **how.pop("wish", {}))
    return asyncio.run(generate(model, bench, wish, effort=effort, **how)), model


def test_the_first_answer_that_passes_is_taken_at_once(make_bench: MakeBench) -> None:
    bench = make_bench({})
    solution, model = run(bench, [answer(ADD)])
    assert (solution.verdict, solution.chosen, len(model.requests)) == ("verified", 1, 1)
    assert model.requests[0].temperature is None
    assert (bench.workspace.path / "main.py").read_text() == solution.files[0].content
    calls = solution.receipts[-1]
    assert [case.name for case in calls.cases] == ["double(2)", "double(0)"]
    assert (calls.sandbox, calls.tree) == (bench.sandbox.name, asyncio.run(bench.workspace.snapshot()))


def test_further_answers_are_sampled_until_one_passes(make_bench: MakeBench) -> None:
    bench = make_bench({})
    script = [answer("return 4"), answer("return None"), "no file", answer(TIMES), answer("return 0")]
    solution, model = run(bench, script)
    assert (solution.verdict, solution.chosen, solution.num_candidates) == ("verified", 4, 4)
    assert [request.temperature for request in model.requests] == [None, 0.8, 0.8, 0.8, 0.8]
    assert TIMES in (bench.workspace.path / "main.py").read_text()
    assert solution.usage.completion_tokens == sum(len(said.split()) for said in script)


def test_the_first_of_equals_stays(make_bench: MakeBench) -> None:
    """One that passes fewer checks, or as many, never takes its place."""
    script = [answer("return 4"), answer("return None"), answer("return 0"), answer("return x +"), "nothing"]
    solution, _ = run(make_bench({}), script, candidates=5)
    assert (solution.verdict, solution.chosen, solution.num_candidates) == ("failed", 1, 5)
    assert solution.notes[0] == "double(0) should return 0, but it is: 4"


def test_what_passes_more_takes_its_place(make_bench: MakeBench) -> None:
    script = [answer("return 7"), answer(SQUARE.replace("x * x", "4")), answer("return 7"), answer("return 8")]
    solution, _ = run(make_bench({}), script, candidates=4)
    assert (solution.verdict, solution.chosen) == ("failed", 2)


def test_a_model_that_can_repair_is_told_the_first_failure(make_bench: MakeBench) -> None:
    script = [answer(SQUARE.replace("x * x", "x ** 3")), answer(ADD)]
    solution, model = run(make_bench({}), script, known={"repairs": True})
    assert (solution.verdict, solution.chosen) == ("verified", 2)
    turns = model.requests[1].messages
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "user"]
    assert "double(2) should return 4, but it is: 8" in turns[-1].content


def test_tests_of_the_caller_decide_and_cant_be_overwritten(make_bench: MakeBench) -> None:
    cheat = f"{answer(SQUARE)}\n```python test_it.py\ndef test_it(): pass\n```"
    bench = make_bench({})
    solution, _ = run(bench, [cheat, answer(TIMES)], "Write double(x)", candidates=2, checks=Checks(tests=(TEST,)))
    assert (solution.verdict, solution.chosen) == ("verified", 2)
    assert [case.outcome for case in solution.receipts[-1].cases] == ["passed"]
    assert [file.path for file in solution.files] == ["main.py"]


def test_commands_are_checks(make_bench: MakeBench) -> None:
    command = ("python3", "-c", "import main; assert main.double(3) == 6, main.double(3)")
    checks = Checks(commands=(command,))
    solution, _ = run(make_bench({}), [answer(SQUARE), answer(ADD)], "Write it", candidates=2, checks=checks)
    assert (solution.verdict, solution.chosen) == ("verified", 2)


def test_without_checks_most_that_behave_alike_are_taken(make_bench: MakeBench) -> None:
    """They aren't written alike, and the first is the odd one."""
    script = [answer(SQUARE), answer(ADD), answer(TIMES), answer("return sum((x, x))")]
    solution, _ = run(make_bench({}), script, "Write double(x)", candidates=4)
    assert (solution.verdict, solution.chosen) == ("plausible", 2)
    assert "3 of 4 answers behave alike; double(" in solution.notes[-1]


def test_no_majority_no_change(make_bench: MakeBench) -> None:
    script = [answer(SQUARE), answer(ADD), answer(TIMES), answer("return x")]
    solution, _ = run(make_bench({}), script, "Write double(x)", candidates=4)
    assert (solution.verdict, solution.chosen) == ("unverified", 1)


def test_a_judge_decides_between_two_where_it_judges_well(make_bench: MakeBench) -> None:
    script = [answer(SQUARE), answer(ADD), answer(TIMES), answer(SQUARE)]
    for said, chosen in ((["A", "B"], 1), (["B", "A"], 2), (["A", "A"], 1)):
        solution, model = run(make_bench({}), [*script, *said], "Write double(x)", candidates=4, known={"judges": True})
        assert solution.chosen == chosen
        assert "Write double(x)" in model.requests[-1].messages[0].content


def test_failing_alike_is_no_agreement(make_bench: MakeBench) -> None:
    script = [answer(ADD), *[answer("return undefined_name")] * 3]
    solution, _ = run(make_bench({}), script, "Write double(x)", candidates=4)
    assert solution.chosen == 1


def test_its_own_tests_prove_little(make_bench: MakeBench) -> None:
    own = "\n```python test_main.py\nfrom main import double\n\ndef test():\n    assert double({}) == {}\n```"
    for numbers, verdict in (((1, 2), "plausible"), ((1, 1), "failed")):
        written = answer(ADD) + own.format(*numbers)
        solution, _ = run(make_bench({}), [written], "Write double(x)", candidates=1, wish={"include_tests": True})
        assert solution.verdict == verdict
        assert solution.notes[-1].startswith("its own tests: 1 ")


def test_without_a_sandbox_nothing_is_run_and_nothing_is_verified() -> None:
    solution, _ = run(None, [answer("open('ran', 'w')")], candidates=1)
    assert solution.verdict == "unverified"
    assert "nothing was run" in solution.notes[0]
    assert {receipt.sandbox for receipt in solution.receipts} == {""}
    solution, _ = run(None, [answer("return ("), answer(ADD)], candidates=2)
    assert (solution.verdict, solution.chosen) == ("unverified", 2), "what doesn't parse is worse without being run"


def test_what_parses_no_further_is_cut_and_imports_are_added(make_bench: MakeBench) -> None:
    chatty = (
        "```python\ndef double(x: int) -> Optional[int]:\n    return int(math.ldexp(x, 1))\n\nprint('It's done')\n```"
    )
    solution, _ = run(make_bench({}), [chatty], candidates=1)
    assert solution.verdict == "verified"
    assert solution.files[0].content.startswith("from typing import Optional\nimport math\n")


def test_the_project_that_is_there_is_used_and_kept(make_bench: MakeBench) -> None:
    bench = make_bench({"helper.py": "def twice(x):\n    return 2 * x\n"})
    solution, _ = run(bench, [answer("return helper.twice(x)").replace("def ", "import helper\n\ndef ", 1)])
    assert solution.verdict == "verified"
    assert (bench.workspace.path / "helper.py").exists()


def test_an_answer_that_would_leave_the_workspace_stays_in_it(make_bench: MakeBench) -> None:
    bench = make_bench({})
    run(bench, [answer(ADD, "../../evil.py")], candidates=1)
    assert not (bench.workspace.path.parent.parent / "evil.py").exists()


def test_a_model_that_fails_later_costs_nothing_that_was_there(make_bench: MakeBench) -> None:
    solution, _ = run(make_bench({}), [answer("return 4"), ModelError("it is gone"), answer(ADD)], candidates=3)
    assert (solution.verdict, solution.chosen) == ("verified", 2)
    assert "it is gone" in solution.notes[-1]
    solution, _ = run(make_bench({}), [answer("return 4"), *[ModelError("it is gone")] * 4], candidates=9)
    assert (solution.verdict, solution.chosen, solution.num_candidates) == ("failed", 1, 1)
    with pytest.raises(ModelError):
        run(make_bench({}), [ModelError("it is gone")])


def test_candidates_are_limited() -> None:
    with pytest.raises(InputError, match="candidates: must be 1 to 64"):
        Effort(candidates=0)
