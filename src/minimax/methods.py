"""What the methods of the client ask for and how they read the answers, written once for both clients."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypedDict

import openai
from openai.types import Completion, CreateEmbeddingResponse, ImagesResponse
from openai.types.chat import ChatCompletion

from minimax import prompts
from minimax.errors import ContextOverflowError
from minimax.fences import files
from minimax.flow import Ask, Flow
from minimax.pieces import split
from minimax.project import texts_in
from minimax.types import Code, CodeFile, Issue, Receipt, Review, Text, TokenCount, Usage

OnOverflow = Literal["refuse", "chunk"]

GENERATE = "/code/generate"
FRAMEWORK, DOCSTRINGS, DEPTH = "pytest", "google-docstring", "comprehensive"

_ANSWER_TOKENS = 1024  # room for an answer whose max_tokens nobody gave
_SAFE_TOKENS = 1024  # shorter texts fit into any window that is worth the name
_ROOM = 0.9  # of what a part may take: tokens are not spread evenly over a text


class Sampling(TypedDict, total=False):
    """What every method takes beside its own arguments.

    `model` replaces the client's `model_version`; the others are those of a chat completion.
    """

    model: str
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop: str | list[str]


@dataclass(frozen=True)
class Defaults:
    """A client's: the model that methods ask for, and its window where the client was told."""

    model: str
    max_context: int | None


def sampled(defaults: Defaults, sampling: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a request; unknown ones are an error.

    Raises:
        TypeError: an option that no method has.
    """
    unknown = sampling.keys() - Sampling.__annotations__.keys()
    if unknown:
        known = ", ".join(Sampling.__annotations__)
        raise TypeError(f"unexpected option {min(unknown)!r}; beside its own arguments a method takes {known}")
    return {"model": defaults.model, **sampling}


def complete(
    defaults: Defaults,
    prompt: object,
    response_format: Mapping[str, Any] | None,
    json_encoder: Callable[[Any], Any] | None,
    sampling: Sampling,
) -> Flow[Completion]:
    """A text completion of a string, or of an object as JSON."""
    text = prompt if isinstance(prompt, str) else json.dumps(prompt, default=json_encoder, ensure_ascii=False)
    body = {**sampled(defaults, sampling), "prompt": text}
    if response_format is not None:
        body["response_format"] = dict(response_format)
    completion: Completion = yield Ask(path="/completions", body=body, cast_to=Completion)
    return completion


def generation(
    defaults: Defaults,
    prompt: str,
    language: str | None,
    framework: str | None,
    style: str | None,
    include_tests: bool,
    sampling: Sampling,
) -> dict[str, Any]:
    """The body of `POST /code/generate`."""
    given = {"language": language, "framework": framework, "style": style, "include_tests": include_tests}
    options = {name: value for name, value in given.items() if value is not None}
    return {**sampled(defaults, sampling), "prompt": prompt, **options}


def generate(body: dict[str, Any]) -> Flow[Code]:
    """`POST /code/generate`."""
    return generated(_object((yield Ask(path=GENERATE, body=body)), GENERATE))


def generated(data: Mapping[str, Any]) -> Code:
    """What `POST /code/generate` answers, or says in the last event of a stream."""
    return Code(
        content=data["content"],
        finish_reason=data.get("finish_reason") or "stop",
        usage=Usage.read(data.get("usage") or {}),
        files=tuple(CodeFile.read(file) for file in data.get("files") or ()),
        receipts=_receipts(data),
        verdict=data.get("verdict") or "unverified",
        notes=tuple(data.get("notes") or ()),
    )


def checked(body: dict[str, Any], otherwise: Flow[Code]) -> Flow[Code]:
    """A task of `POST /code/generate`, whose answer has receipts; a chat completion where a server can't do it: it has
    no such path or no sandbox, or the files are too many for it or too long for its model."""
    try:
        data = yield Ask(path=GENERATE, body=body)
    except openai.APIStatusError as error:
        has_path = not isinstance(error, openai.NotFoundError) or error.code == "model_not_found"
        if has_path and error.code != "no_sandbox" and error.param not in ("files", "paths"):
            raise
        return (yield from otherwise)
    return generated(_object(data, GENERATE))


def _sent(texts: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"path": path, "content": content} for path, content in texts.items()]


def review_code(
    defaults: Defaults, code: str | Mapping[str, str], language: str | None, standards: Sequence[str], model: str | None
) -> Flow[Review]:
    """`POST /code/review`."""
    body: dict[str, Any] = {"model": model or defaults.model, "standards": list(standards)}
    if isinstance(code, str):
        body["code"] = code
    else:
        body["files"] = _sent(code)
    if language is not None:
        body["language"] = language
    data = _object((yield Ask(path="/code/review", body=body)), "/code/review")
    return Review(
        issues=tuple(Issue.read(issue) for issue in data["issues"]),
        quality_score=data["quality_score"],
        notice=data.get("notice") or "",
        receipts=_receipts(data),
        usage=Usage.read(data.get("usage") or {}),
    )


def analyze(
    defaults: Defaults, context: str, task: str, analysis_depth: str, on_overflow: OnOverflow, sampling: Sampling
) -> Flow[Text]:
    """One documented prompt over a context."""
    ask = partial(prompts.ANALYZE.format, task=task, depth=analysis_depth)
    return (yield from over_context(defaults, ask, context, on_overflow, sampling))


def refactor(
    defaults: Defaults,
    context: str,
    patterns: Sequence[str],
    style: str,
    on_overflow: OnOverflow,
    sampling: Sampling,
) -> Flow[Code]:
    """The task "refactor" of `POST /code/generate`; elsewhere one documented prompt over the context."""
    wanted = prompts.REFACTORED.format(style=style, patterns=prompts.listed(patterns))
    ask = partial(prompts.REFACTOR.format, wanted=wanted, files=prompts.FILES)
    return (yield from _changed(defaults, "refactor", wanted, ask, context, on_overflow, sampling))


def fix_bug(
    defaults: Defaults, error_log: str, context: str, explain: bool, on_overflow: OnOverflow, sampling: Sampling
) -> Flow[Code]:
    """The task "fix" of `POST /code/generate`; elsewhere one documented prompt over the context."""
    explained = prompts.EXPLAIN if explain else ""
    ask = partial(prompts.FIX_BUG.format, error=error_log, explain=explained, files=prompts.FILES)
    return (yield from _changed(defaults, "fix", error_log + explained, ask, context, on_overflow, sampling))


def _changed(
    defaults: Defaults, task: str, prompt: str, ask: Callable[..., str], context: str, on_overflow: OnOverflow,
    sampling: Sampling,
) -> Flow[Code]:  # fmt: skip
    """A change of a project whose files are told apart; of any other text the answer is in words."""

    def in_words() -> Flow[Code]:
        return with_files((yield from over_context(defaults, ask, context, on_overflow, sampling)))

    if not (texts := texts_in(context)):
        return (yield from in_words())
    body = {**sampled(defaults, sampling), "task": task, "prompt": prompt, "files": _sent(texts)}
    return (yield from checked(body, in_words()))


def generate_tests(
    defaults: Defaults,
    code: str,
    framework: str,
    module: str,
    include_edge_cases: bool,
    include_mocking: bool,
    coverage_target: int,
    sampling: Sampling,
) -> Flow[Code]:
    """The task "tests" of `POST /code/generate`; elsewhere one documented prompt, whose answer has no receipts."""
    edges, mocking = prompts.EDGES if include_edge_cases else "", prompts.MOCKING if include_mocking else ""
    body = {
        **sampled(defaults, sampling),
        "task": "tests",
        "prompt": f"{edges}{mocking}".strip() or prompts.ANY,
        "framework": framework,
        "coverage_target": coverage_target,
        "files": [{"path": f"{module.replace('.', '/')}.py", "content": code}],
    }
    prompt = prompts.TESTS.format(
        framework=framework,
        coverage=coverage_target,
        edges=edges,
        mocking=mocking,
        module=module,
        files=prompts.FILES,
        code=code,
    )
    asked = _asked(defaults, prompt, sampling, "test_code")
    is_run = framework in ("pytest", "unittest") and _is_python(code)
    return (yield from (checked(body, asked) if is_run else asked))


def document_code(
    defaults: Defaults, code: str, style: str, include_examples: bool, explain_logic: bool, sampling: Sampling
) -> Flow[Code]:
    """The task "document" of `POST /code/generate`; elsewhere one documented prompt, whose answer has no receipts."""
    body = {
        **sampled(defaults, sampling),
        "task": "document",
        "prompt": prompts.EXAMPLES.strip() if include_examples else prompts.ANY,
        "style": style,
        "files": [{"path": "code.py", "content": code}],
    }
    prompt = prompts.DOCUMENT.format(
        style=style,
        examples=prompts.EXAMPLES if include_examples else "",
        logic=prompts.LOGIC if explain_logic else "",
        files=prompts.FILES,
        code=code,
    )
    asked = _asked(defaults, prompt, sampling, "code")
    is_put_in = _is_python(code) and not explain_logic  # an explanation is no docstring
    return (yield from (checked(body, asked) if is_put_in else asked))


def _is_python(code: str) -> bool:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _asked(defaults: Defaults, prompt: str, sampling: Sampling, default_name: str) -> Flow[Code]:
    """The files in the answer to one message."""
    return with_files((yield from chat(defaults, prompt, sampling)), default_name)


def embed(
    defaults: Defaults, texts: str | Sequence[str], model: str | None, dimensions: int | None
) -> Flow[list[list[float]]]:
    """`POST /embeddings`; a vector a text, in their order."""
    given = [texts] if isinstance(texts, str) else list(texts)
    body: dict[str, Any] = {"model": model or defaults.model, "input": given, "encoding_format": "float"}
    if dimensions is not None:
        body["dimensions"] = dimensions
    response: CreateEmbeddingResponse = yield Ask(path="/embeddings", body=body, cast_to=CreateEmbeddingResponse)
    return [item.embedding for item in sorted(response.data, key=lambda item: item.index)]


def generate_image(prompt: str, model: str | None, size: str, n: int) -> Flow[ImagesResponse]:
    """`POST /images/generations`; images in base64."""
    body: dict[str, Any] = {"prompt": prompt, "size": size, "n": n, "response_format": "b64_json"}
    if model is not None:
        body["model"] = model
    response: ImagesResponse = yield Ask(path="/images/generations", body=body, cast_to=ImagesResponse)
    return response


def usage() -> Flow[dict[str, Any]]:
    """`GET /usage`: what the key has used, as the server says it."""
    return _object((yield Ask(path="/usage")), "/usage")


def chat(defaults: Defaults, prompt: str, sampling: Sampling) -> Flow[Text]:
    """The answer to one message."""
    body = {**sampled(defaults, sampling), "messages": [{"role": "user", "content": prompt}]}
    answer: ChatCompletion = yield Ask(path="/chat/completions", body=body, cast_to=ChatCompletion)
    choice = answer.choices[0]
    return Text(
        content=choice.message.content or "",
        finish_reason=choice.finish_reason,
        usage=Usage.read(answer.usage.model_dump()) if answer.usage else Usage(),
    )


def count_tokens(defaults: Defaults, text: str) -> Flow[TokenCount]:
    """Tokens of a text as a message, by the server where it counts (`/messages/count_tokens`), else bytes / 3."""
    body = {"model": defaults.model, "messages": [{"role": "user", "content": text}]}
    try:
        data = yield Ask(path="/messages/count_tokens", body=body)
        return TokenCount(tokens=int(data["input_tokens"]), is_exact=True)
    except (openai.NotFoundError, openai.APIResponseValidationError):
        return TokenCount(tokens=-(-len(text.encode()) // 3), is_exact=False)


def over_context(
    defaults: Defaults, ask: Callable[..., str], context: str, on_overflow: OnOverflow, sampling: Sampling
) -> Flow[Text]:
    """The answer to `ask(context=context)`; a context beyond the window is refused or read in parts.

    Raises:
        ContextOverflowError: it is too long and was to be refused, or parts can't be made small enough.
    """
    if on_overflow not in ("refuse", "chunk"):
        raise ValueError(f"on_overflow: must be 'refuse' or 'chunk', got {on_overflow!r}")
    whole = ask(context=context)
    count, window = yield from _fit(defaults, whole)
    answer_tokens = sampling.get("max_tokens", _ANSWER_TOKENS)
    if window is None or count.tokens + answer_tokens <= window:
        return (yield from chat(defaults, whole, sampling))
    too_long = ContextOverflowError(count.tokens + answer_tokens, window, is_exact=count.is_exact)
    if on_overflow == "refuse":
        raise too_long

    def ask_part(number: int, count: int, context: str) -> str:
        return prompts.PART.format(number=number, count=count, prompt=ask(context=context))

    room = window - answer_tokens - len(ask_part(99, 99, "").encode()) // 2  # of a part, in tokens
    size = int(len(context) * room / count.tokens * _ROOM)
    if size < _SAFE_TOKENS:
        raise too_long
    parts = split(context, size)
    answers = list[Text]()
    for number, part in enumerate(parts, start=1):
        answers.append((yield from chat(defaults, ask_part(number, len(parts), part), sampling)))
    joined = "\n\n".join(f"Part {number}:\n{answer}" for number, answer in enumerate(answers, start=1))
    if len(joined) >= len(context):
        raise too_long
    combine = partial(prompts.COMBINE.format, task=ask(context="(the text)"))
    combined = yield from over_context(defaults, combine, joined, on_overflow, sampling)
    used = sum((answer.usage for answer in answers), combined.usage)
    return replace(combined, usage=used, num_parts=len(parts))


def with_files(text: Text, default_name: str = "code") -> Code:
    """An answer and the files in it."""
    return Code(
        content=text.content,
        finish_reason=text.finish_reason,
        usage=text.usage,
        num_parts=text.num_parts,
        files=files(text.content, default_name),
    )


def _fit(defaults: Defaults, text: str) -> Flow[tuple[TokenCount, int | None]]:
    """Tokens of a text and the window, which the server may tell; None where nobody knows it."""
    if len(text.encode()) <= _SAFE_TOKENS:  # a token is at least a byte
        return TokenCount(tokens=0, is_exact=False), None
    window = defaults.max_context
    if window is None:
        data = _object((yield Ask(path="/models")), "/models")
        models = data.get("data") or [{}]
        served = next((model for model in models if model.get("id") == defaults.model), models[0])
        window = served.get("max_model_len")
    return (yield from count_tokens(defaults, text)), window


def _object(reply: Any, path: str) -> dict[str, Any]:
    if not isinstance(reply, dict):
        raise openai.OpenAIError(f"{path}: expected a JSON object, got {type(reply).__name__}")
    return reply


def _receipts(data: Mapping[str, Any]) -> tuple[Receipt, ...]:
    return tuple(Receipt.read(receipt) for receipt in data.get("receipts") or ())
