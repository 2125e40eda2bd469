"""The OpenAPI document keeps its word: whatever schemathesis makes of it is answered as the document says."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from jsonschema import Draft202012Validator
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from helpers.images import write_image_pipeline
from helpers.live_server import live_server
from helpers.scripted import ScriptedService
from openm3.server.app import create_app

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
OPERATIONS = [
    f"{method.upper()} {path}"
    for path, methods in create_app(ScriptedService()).openapi()["paths"].items()
    for method in methods
]


# What hardly any random body has: something that can be served.
HI = [{"role": "user", "content": "hi"}]
MESSAGES = {"model": "default", "messages": HI, "max_tokens": 9}
PLAIN: dict[str, dict[str, Any]] = {
    "POST /v1/chat/completions": {"model": "default", "messages": HI},
    "POST /v1/completions": {"model": "default"},
    "POST /v1/responses": {"model": "default", "input": "hi"},
    "POST /v1/messages": MESSAGES,
    "POST /anthropic/v1/messages": MESSAGES,
    "POST /v1/messages/count_tokens": {"model": "default", "messages": HI},
    "POST /anthropic/v1/messages/count_tokens": {"model": "default", "messages": HI},
    "POST /v1/images/generate": {"prompt": "hi", "openm3": {"steps": 1}},
    "POST /v1/images/generations": {"prompt": "hi", "openm3": {"steps": 1}},
}
EASY = {"prompt", "stream", "seed", "n", "stop", "logprobs", "metadata", "user", "instructions", "system"}

QUICK = settings(
    max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True
)


@pytest.fixture(scope="module")
def operations(tmp_path_factory: pytest.TempPathFactory) -> Generator[dict[str, Any], None, None]:
    images = tmp_path_factory.mktemp("models") / "images"
    write_image_pipeline(images)
    with live_server(ScriptedService(), images=str(images), max_image_pixels=32 * 32, max_image_steps=2) as url:
        document = schemathesis.openapi.from_url(f"{url}/openapi.json")
        found = [each.ok() for each in document.get_all_operations()]
        yield {operation.label: operation for operation in found}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_answer_is_one_that_the_document_tells(operations: dict[str, Any], operation: str) -> None:
    num_served = 0

    @given(case=operations[operation].as_strategy())
    @QUICK
    def check(case: Any) -> None:
        nonlocal num_served
        if operation in PLAIN and isinstance(case.body, dict):
            case.body = {key: value for key, value in case.body.items() if key in EASY} | PLAIN[operation]
        response = case.call_and_validate(checks=CHECKS)
        num_served += response.status_code == 200

    check()
    assert num_served or operation not in PLAIN


WITH_BODIES = [each for each in OPERATIONS if (each.startswith("POST") and "/code/" not in each) or "{" in each]


@pytest.mark.parametrize("operation", WITH_BODIES)
def test_what_is_wrong_by_the_document_is_refused(operations: dict[str, Any], operation: str) -> None:
    @given(case=operations[operation].as_strategy(generation_mode=GenerationMode.NEGATIVE))
    @QUICK
    def check(case: Any) -> None:
        response = case.call_and_validate(checks=CHECKS)
        assert 400 <= response.status_code < 500 or operation not in PLAIN

    check()


@pytest.mark.parametrize("name", ["Generate", "Review"])
def test_bodies_for_code_that_the_document_forbids_are_refused(operations: dict[str, Any], name: str) -> None:
    """Those that it allows take analysers seconds, so they are left to tests of their own."""
    document = create_app(ScriptedService()).openapi()
    schema = {"$ref": f"#/components/schemas/{name}Request", "components": document["components"]}
    allowed, num_refused = Draft202012Validator(schema), 0

    @given(case=operations[f"POST /v1/code/{name.lower()}"].as_strategy(generation_mode=GenerationMode.NEGATIVE))
    @QUICK
    def check(case: Any) -> None:
        nonlocal num_refused
        if not isinstance(case.body, bytes) and allowed.is_valid(case.body):
            return  # it is the query or a header that is wrong
        assert 400 <= case.call_and_validate(checks=CHECKS).status_code < 500
        num_refused += 1

    check()
    assert num_refused
