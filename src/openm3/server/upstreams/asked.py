"""What a request for an upstream asks for, as far as the way there has to know it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from openm3.server.errors import ApiError

_BYTES_PER_TOKEN = 4  # of text, as tokenizers have it on the mean; the upstream counts them exactly afterwards
_COUNTED = ("/chat/completions", "/completions")  # whose streams tell their tokens only where that is asked for


@dataclass(frozen=True)
class Asked:
    """A request's body, read.

    Attributes:
        path: of the endpoint, behind the version.
        fields: of the body.
        num_bytes: of the body.
    """

    path: str
    fields: dict[str, Any]
    num_bytes: int

    @classmethod
    def read(cls, path: str, body: bytes) -> Asked:
        """Reads a body.

        Raises:
            ApiError: it isn't a JSON object with a model's name.
        """
        try:
            fields = from_json(body, allow_inf_nan=False)
        except ValueError as error:
            raise ApiError(400, f"the body is not valid JSON: {error}", code="invalid_json") from error
        return cls.of(path, fields, len(body))

    @classmethod
    def of(cls, path: str, fields: Any, num_bytes: int) -> Asked:
        """Takes a body that was read.

        Raises:
            ApiError: it isn't a JSON object with a model's name.
        """
        if not isinstance(fields, dict):
            raise ApiError(400, "the body must be a JSON object", code="invalid_body")
        if not isinstance(fields.get("model"), str):
            raise ApiError(400, "model: a model's name is required", code="missing_field", param="model")
        return cls(path, fields, num_bytes)

    @property
    def model(self) -> str:
        """By the client's name."""
        name: str = self.fields["model"]
        return name

    @property
    def is_stream(self) -> bool:
        """Whether events are asked for."""
        return self.fields.get("stream") is True

    @property
    def adds_usage(self) -> bool:
        """Whether the upstream has to be asked for the tokens of a stream, which the client hasn't asked for."""
        options = self.fields.get("stream_options")
        told = isinstance(options, dict) and options.get("include_usage")
        return self.is_stream and self.path in _COUNTED and not told

    @property
    def prompt_tokens(self) -> int:
        """How long the prompt probably is."""
        return max(1, self.num_bytes // _BYTES_PER_TOKEN)

    @property
    def answer_tokens(self) -> int | None:
        """The most that will be generated, all answers together; None: the client doesn't say."""
        limits = (self.fields.get(name) for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"))
        most = next((limit for limit in limits if isinstance(limit, int) and limit > 0), None)
        return None if most is None else most * self.num_answers

    @property
    def num_answers(self) -> int:
        """How many choices are asked for."""
        n = self.fields.get("n")
        return n if isinstance(n, int) and n > 0 else 1

    def body(self, model: str, answer_tokens: int | None) -> bytes:
        """The body for an upstream.

        Args:
            model: by the upstream's name.
            answer_tokens: the most that may be generated where the client doesn't say.
        """
        fields = self.fields | {"model": model}
        if self.adds_usage:
            options = self.fields.get("stream_options")
            fields["stream_options"] = (options if isinstance(options, dict) else {}) | {"include_usage": True}
        if answer_tokens is not None and self.answer_tokens is None and self.path in _COUNTED:
            fields["max_tokens"] = max(1, answer_tokens // self.num_answers)
        return json.dumps(fields, ensure_ascii=False).encode()
