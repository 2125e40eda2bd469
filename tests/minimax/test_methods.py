"""What the methods ask for and return, by scripted answers; the same for both clients."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
from collections.abc import Callable
from datetime import date
from typing import Any

import httpx2
import pytest

import minimax
from minimax import AsyncMiniMaxM3, MiniMaxM3
from minimax.pieces import split
from minimax.testing import Reply, ScriptedTransport
from minimax.types import Code, Failure

ANSWER = "Here it is.\n```python app/main.py\nx = 1\n```\nand\n```python ../evil.py\ny = 2\n```\n"
REVIEW = {
    "issues": [{"severity": "high", "file": "code.py", "line": 3, "message": "eval", "rule": "S307", "newer": True}],
    "quality_score": 71.5,
    "receipts": [{"command": "ruff check", "exit_code": 1}],
}
GENERATED = {
    "content": ANSWER,
    "files": [{"path": "main.py", "content": "x = 1\n", "language": "python"}],
    "receipts": [{"command": "ast.parse main.py", "exit_code": 0}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
}
LONG = "".join(f"line {number} of the text\n" for number in range(2000))


def both(replies: list[Reply], call: Callable[[Any], Any]) -> tuple[Any, list[dict[str, Any]]]:
    """The result and the requests of a method, which must be the same with both clients."""
    transport = ScriptedTransport(replies)
    with MiniMaxM3(transport=transport) as client:
        result = call(client)

    async def ask() -> tuple[Any, list[dict[str, Any]]]:
        other = ScriptedTransport(replies)
        async with AsyncMiniMaxM3(transport=other) as client:
            return await call(client), other.requests

    assert asyncio.run(ask()) == (result, transport.requests)
    return result, transport.requests


def test_both_clients_have_the_same_methods() -> None:
    for name, method in vars(MiniMaxM3).items():
        if name.startswith("_") or not callable(method):
            continue
        other = getattr(AsyncMiniMaxM3, name)
        ours, theirs = inspect.signature(method), inspect.signature(other)
        assert list(ours.parameters.values()) == list(theirs.parameters.values()), name
    ours = inspect.signature(MiniMaxM3.__init__).parameters
    assert list(ours) == list(inspect.signature(AsyncMiniMaxM3.__init__).parameters)


def test_complete() -> None:
    result, [request] = both(["done"], lambda client: client.complete(prompt="go on", max_tokens=5, temperature=0.7))
    assert result.choices[0].text == "done"
    assert request == {"model": "default", "prompt": "go on", "max_tokens": 5, "temperature": 0.7}


def test_a_prompt_that_is_no_string_is_json() -> None:
    """Parts that JSON doesn't have go through `json_encoder`."""
    data = {"born": date(1815, 12, 10)}
    json_object = {"type": "json_object"}
    _, [request] = both(
        ["{}"], lambda client: client.complete(data, response_format=json_object, json_encoder=date.isoformat)
    )
    assert json.loads(request["prompt"]) == {"born": "1815-12-10"}
    assert request["response_format"] == json_object
    with MiniMaxM3(transport=ScriptedTransport([])) as client, pytest.raises(TypeError, match="not JSON serializable"):
        client.complete(data)


def test_generate_has_files_and_receipts() -> None:
    options = {"language": "python", "framework": "fastapi", "include_tests": True, "style": "production-ready"}
    result, [request] = both([GENERATED], lambda client: client.generate(prompt="an API", max_tokens=9, **options))
    assert request == {"model": "default", "prompt": "an API", "max_tokens": 9, **options}
    assert result.code == "x = 1\n"
    assert [receipt.exit_code for receipt in result.receipts] == [0]
    assert result.usage.total_tokens == 7


def test_a_callback_hears_of_every_token() -> None:
    told: list[tuple[int, int]] = []
    result, [request] = both(
        ["a b c"], lambda client: client.generate("x", max_tokens=10, callback=lambda *counts: told.append(counts))
    )
    assert isinstance(result, Code)
    assert result.content == "a b c"
    assert request["stream"] is True
    one_client = told[: len(told) // 2]
    assert one_client[-1] == (3, 10), "exact at the end"
    assert [total for _, total in told] == [10] * len(told)


def test_streams() -> None:
    with MiniMaxM3(transport=ScriptedTransport(["a b c"])) as client:
        chunks = list(client.generate("x", stream=True, language="go"))
    assert "".join(chunk.content for chunk in chunks) == "a b c"

    async def ask() -> str:
        async with AsyncMiniMaxM3(transport=ScriptedTransport(["a b c"])) as client:
            return "".join([chunk.content async for chunk in client.generate("x", stream=True)])

    assert asyncio.run(ask()) == "a b c"


def test_files_of_an_answer_never_leave_the_folder() -> None:
    result, _ = both([ANSWER], lambda client: client.refactor("p", patterns=["di", " caching"], target_style="clean"))
    assert [file.path for file in result.files] == ["app/main.py", "code_2.py"]
    assert result.receipts == ()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c: c.fix_bug(error_log="KeyError: {x}", project_context="src {y}"), ["KeyError: {x}", "src {y}"]),
        (lambda c: c.fix_bug("e", "p", include_explanation=True), ["Explain the cause"]),
        (lambda c: c.generate_tests(code="f(", framework="unittest"), ["unittest", "f(", "90%"]),
        (lambda c: c.generate_tests("f(", include_mocking=True, coverage_target=80), ["test doubles", "80%"]),
        (lambda c: c.document_code("f(", style="numpy", include_examples=True), ["numpy docstring", "examples of use"]),
        (lambda c: c.analyze("ctx", "find {bugs}", analysis_depth="quick"), ["find {bugs}", "quick", "ctx"]),
        (lambda c: c.refactor("p", ["repository"], "clean"), ["repository", "clean", "p"]),
    ],
)
def test_every_argument_reaches_the_prompt(call: Callable[[Any], Any], words: list[str]) -> None:
    _, [request] = both([ANSWER], call)
    for word in words:
        assert word in request["messages"][0]["content"]


@pytest.mark.parametrize(
    ("call", "task", "words"),
    [
        (
            lambda c: c.generate_tests("x = 1", module="a.b", coverage_target=80),
            "tests",
            ["a/b.py", "pytest", "edge cases"],
        ),
        (lambda c: c.document_code("x = 1", style="numpy", include_examples=True), "document", ["numpy", "examples"]),
        (lambda c: c.fix_bug("KeyError: 7", "### a.py\nx = 1\n\n### b.md\nB\n"), "fix", ["KeyError", "cause", "b.md"]),
        (lambda c: c.refactor("### a.py\nx = 1\n", ["di"], "clean"), "refactor", ["di", "clean"]),
    ],
)
def test_what_a_server_can_run_has_receipts(call: Callable[[Any], Any], task: str, words: list[str]) -> None:
    """A server without the path, or without a sandbox, is asked in words, and then nothing was run."""
    answer = {**GENERATED, "verdict": "verified", "notes": ["1 passed"]}
    result, [request] = both([answer], call)
    assert request["task"] == task
    assert request["files"][0]["content"].strip() == "x = 1"
    for word in words:
        assert word in json.dumps(request)
    assert (result.verdict, result.notes, len(result.receipts)) == ("verified", ("1 passed",), 1)
    result, [_, asked] = both([404, ANSWER], call)
    assert "x = 1" in asked["messages"][0]["content"]
    assert (result.verdict, result.receipts, len(result.files)) == ("unverified", (), 2)


@pytest.mark.parametrize("why", [{"code": "no_sandbox"}, {"param": "files"}, {"param": "paths"}])
def test_what_a_server_can_t_run_is_asked_in_words(why: dict[str, str]) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/code/generate"):
            return httpx2.Response(400, json={"error": {"message": "no", **why}}, request=request)
        message = {"role": "assistant", "content": ANSWER}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return httpx2.Response(200, json={"choices": [choice]}, request=request)

    with MiniMaxM3(transport=httpx2.MockTransport(answer), max_retries=0) as client:
        result = client.fix_bug("e", "### a.py\nx = 1\n")
    assert (result.verdict, result.receipts, len(result.files)) == ("unverified", (), 2)


def test_review() -> None:
    standards = ["pep8", "security"]
    result, [request] = both([REVIEW], lambda client: client.review_code(code="eval(x)", standards=standards))
    assert request["code"] == "eval(x)"
    assert request["standards"] == standards
    assert result.quality_score == 71.5
    assert (result.issues[0].line, result.issues[0].rule) == (3, "S307")
    assert result.receipts[0].command == "ruff check"


def test_one_failure_loses_no_other_result() -> None:
    tasks = [{"prompt": f"task {number}", "max_tokens": 5} for number in range(3)]
    with MiniMaxM3(transport=ScriptedTransport(["a", 400, "c"]), max_connections=1, max_retries=0) as client:
        first, second, third = client.batch_complete(tasks)
    assert not isinstance(first, Failure) and not isinstance(third, Failure)
    assert (first.choices[0].text, third.choices[0].text) == ("a", "c")
    assert isinstance(second, Failure) and second.task == tasks[1]
    with pytest.raises(minimax.client.openai.BadRequestError):
        _ = second.choices
    with MiniMaxM3(transport=ScriptedTransport([])) as client, pytest.raises(TypeError, match=r"tasks\[1\]"):
        client.batch_complete([{"prompt": "x"}, {"text": "y"}])


def test_embeddings_keep_their_order() -> None:
    data = [{"object": "embedding", "index": i, "embedding": [float(i)]} for i in (1, 0)]
    reply = {"object": "list", "data": data, "model": "m", "usage": {"prompt_tokens": 1, "total_tokens": 1}}
    result, [request] = both([reply], lambda client: client.embed(["a", "b"], dimensions=8))
    assert result == [[0.0], [1.0]]
    assert request["dimensions"] == 8


def test_too_long_is_refused_with_both_numbers() -> None:
    both_numbers = "9,100 tokens don't fit into the window of 8,192"
    client = MiniMaxM3(transport=ScriptedTransport([{"input_tokens": 9000}]), max_context=8192)
    with client, pytest.raises(minimax.ContextOverflowError, match=both_numbers) as it:
        client.analyze(LONG, "Summarise", max_tokens=100)
    assert (it.value.tokens, it.value.window) == (9100, 8192)


def test_a_server_that_cannot_count_is_estimated() -> None:
    replies: list[Reply] = [{"data": [{"id": "m", "max_model_len": 4096}]}, 404]
    client = MiniMaxM3(transport=ScriptedTransport(replies))
    with client, pytest.raises(minimax.ContextOverflowError, match="about "):
        client.analyze(LONG, "Summarise")


def test_chunks_cover_everything_and_are_combined() -> None:

    transport = ScriptedTransport([{"input_tokens": 16000}, "one", "two", "three", "all"])
    with MiniMaxM3(transport=transport, max_context=8192) as client:
        result = client.analyze(LONG, "Summarise", on_overflow="chunk", max_tokens=200)

    assert result.content == "all"
    assert result.num_parts == 3
    read = [request["messages"][0]["content"] for request in transport.requests[1:4]]
    for number in range(2000):
        assert any(f"line {number} of the text\n" in part for part in read)
    assert "Part 2:\ntwo" in transport.requests[-1]["messages"][0]["content"]
    assert result.usage.completion_tokens == 4


def test_pieces_overlap_by_a_tenth() -> None:
    pieces = split(LONG, 1000)
    assert all(len(piece) <= 1000 for piece in pieces)
    for before, after in itertools.pairwise(pieces):
        assert before.endswith("\n") or len(before) == 1000
        assert LONG.count(before[-100:] + after[100:150]) == 1


def test_unknown_options_are_refused() -> None:
    with MiniMaxM3(transport=ScriptedTransport([])) as client:
        with pytest.raises(TypeError, match="unexpected option 'max_token'"):
            client.complete("x", max_token=5)  # type: ignore[call-arg]
        with pytest.raises(ValueError, match="on_overflow"):
            client.analyze("x", "y", on_overflow="cut")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="max_conections"):
        MiniMaxM3(max_conections=5)


def test_other_options_keep_the_defaults() -> None:
    with MiniMaxM3(transport=ScriptedTransport(["x"]), model_version="m3-pro", max_context=1_000_000) as client:
        other = client.with_options(timeout=5)
        assert other.defaults == client.defaults
        assert other.complete("x").choices[0].text == "x"
