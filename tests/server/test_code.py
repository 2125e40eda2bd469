"""`/v1/code/generate` and `/v1/code/review` on a real socket."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest

from helpers.live_server import live_server
from helpers.scripted import ScriptedLLM, ScriptedService
from minimax import MiniMaxM3, load_project_files

ANSWER = ["Here it is.\n", "```python app.py\n", "x = 1\n", "```\n", "```python test_app.py\ndef f(:\n```\n"]


@pytest.fixture(scope="module")
def service() -> ScriptedService:
    return ScriptedService(tokens=ANSWER, llm=ScriptedLLM(max_context=10_000))


@pytest.fixture(scope="module")
def code(service: ScriptedService) -> Generator[httpx.Client, None, None]:
    with live_server(service) as url, httpx.Client(base_url=f"{url}/v1/code", timeout=60) as client:
        yield client


def test_the_articles_request_is_answered_with_files_and_facts(code: httpx.Client, service: ScriptedService) -> None:
    body = {
        "prompt": "Generate a complete Python FastAPI application", "language": "python", "framework": "fastapi",
        "include_tests": True, "style": "production-ready",
    }  # fmt: skip
    answer = code.post("/generate", json=body).json()
    assert (answer["object"], answer["model"], answer["finish_reason"]) == ("code.generation", "scripted", "stop")
    assert answer["content"] == "".join(ANSWER)
    assert [(file["path"], file["content"], file["complete"]) for file in answer["files"]] == [
        ("app.py", "x = 1\n", True),
        ("test_app.py", "def f(:\n", True),
    ]
    [issue] = answer["issues"]
    assert (issue["file"], issue["line"], issue["severity"]) == ("test_app.py", 1, "high")
    assert answer["quality_score"] == 0
    assert answer["receipts"][0]["checked"] == "whether 2 files parse; nothing of them was run"
    assert answer["usage"]["completion_tokens"] == len(ANSWER)
    assert answer["usage"]["prompt_tokens"] == len(service.requests[-1][0])
    assert b"Framework: fastapi" in bytes(service.requests[-1][0])


def test_a_stream_has_the_content_and_then_the_whole(code: httpx.Client) -> None:
    with code.stream("POST", "/generate", json={"prompt": "x", "stream": True, "max_tokens": 1000}) as response:
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert events[-1] == "[DONE]"
    *chunks, whole = [json.loads(event) for event in events[:-1]]
    assert {chunk["object"] for chunk in chunks} == {"code.generation.chunk"}
    assert "".join(chunk["content"] for chunk in chunks) == whole["content"] == "".join(ANSWER)
    assert {chunk["id"] for chunk in chunks} == {whole["id"]}
    assert len(whole["files"]) == 2


def test_an_answer_that_is_cut_has_a_file_that_isnt_complete(code: httpx.Client) -> None:
    answer = code.post("/generate", json={"prompt": "x", "max_tokens": 3}).json()
    assert (answer["finish_reason"], [file["complete"] for file in answer["files"]]) == ("length", [False])


def test_the_articles_review(code: httpx.Client) -> None:
    body = {"code": "import os\n", "standards": ["pep8", "security", "performance"]}
    review = code.post("/review", json=body).json()
    assert (review["object"], review["files"], review["model"]) == ("code.review", ["main.py"], None)
    assert "no model has read the code" in review["notice"]
    [issue] = review["issues"]
    assert (issue["rule"], issue["line"], issue["suggestion"]) == ("ruff:F401", 1, "Remove unused import: `os`")
    assert review["quality_score"] == 85
    assert {receipt["exit_code"] for receipt in review["receipts"]} == {0, 1}


def test_nothing_of_the_code_is_run(code: httpx.Client, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    evil = f"open({str(mark)!r}, 'w')\n"
    names = (
        "ruff.py",
        "conftest.py",
        "sitecustomize.py",
        "setup.py",
        "bandit/__init__.py",
        "mypy/__main__.py",
        "ast.py",
    )
    review = code.post("/review", json={"files": [{"path": name, "content": evil} for name in names]})
    assert review.status_code == 200 and review.json()["num_issues"] > 0
    assert not mark.exists()


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/review", {}, "code"),
        ("/review", {"code": "x", "files": []}, "code"),
        ("/review", {"files": []}, "files"),
        ("/review", {"code": "x", "language": "klingon"}, "language"),
        ("/review", {"code": "x", "standards": ["pep7"]}, "standards[0]"),
        ("/review", {"code": 1}, "code"),
        ("/review", {"files": [{"path": "../x.py", "content": ""}]}, "files[0].path"),
        ("/review", {"files": [{"path": "a.py"}]}, "files[0].content"),
        ("/review", {"files": [{"path": f"{i}.py", "content": ""} for i in range(201)]}, "files"),
        ("/generate", {}, "prompt"),
        ("/generate", {"prompt": ""}, "prompt"),
        ("/generate", {"prompt": "x", "include_tests": "yes"}, "include_tests"),
        ("/generate", {"prompt": "x", "framwork": "y"}, "framwork"),
        ("/generate", {"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ("/generate", {"prompt": "x" * 20_000}, "prompt"),
    ],
)
def test_what_is_wrong_is_named(code: httpx.Client, path: str, body: dict[str, Any], param: str) -> None:
    response = code.post(path, json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_another_model_does_not_exist(code: httpx.Client) -> None:
    for path, body in (("/generate", {"prompt": "x"}), ("/review", {"code": "x"})):
        assert code.post(path, json={"model": "gpt-9", **body}).status_code == 404


def test_the_sdk_s_changes_of_a_project_are_run(tmp_path: Path) -> None:
    """A fix passes the test that fails; a refactoring does what the code did, by its test and by its function."""
    wrong = {"cart.py": "def total(prices):\n    return 0\n", "readme.md": "# Cart\n"}
    wrong["test_cart.py"] = "from cart import total\n\n\ndef test_total():\n    assert total([1, 2]) == 3\n"
    for path, text in wrong.items():
        (tmp_path / path).write_text(text)
    answer = "The sum was missing.\n\n```python cart.py\ndef total(prices):\n    return sum(prices)\n```\n"
    service = ScriptedService(tokens=[answer], llm=ScriptedLLM(max_context=10_000))
    with live_server(service) as url, MiniMaxM3(base_url=f"{url}/v1", api_key="none") as client:
        fixed = client.fix_bug("total([1, 2]) is 0", load_project_files(tmp_path))
        assert (fixed.verdict, [file.path for file in fixed.files]) == ("verified", ["cart.py"]), fixed
        assert "The sum was missing." in fixed.content
        cases = {case["name"]: case["outcome"] for receipt in fixed.receipts for case in receipt.cases}
        assert cases == {"test_cart.py::test_total": "passed"}
        assert b"total([1, 2]) is 0" in bytes(service.requests[-1][0])

        (tmp_path / "cart.py").write_text("def total(prices):\n    return prices[0] + sum(prices[1:])\n")
        done = client.refactor(load_project_files(tmp_path), patterns=["built-ins"], target_style="plain")
        assert done.verdict == "failed", "total([]) was an error before"
        assert done.files == () and "nothing was changed" in done.notes[0]
        (tmp_path / "cart.py").write_text("def total(prices):\n    return sum([*prices])\n")
        done = client.refactor(load_project_files(tmp_path), patterns=["built-ins"], target_style="plain")
        assert (done.verdict, [file.path for file in done.files]) == ("verified", ["cart.py"]), done
