"""What every request shares: strict reading, and the fields that say how answers are sampled.

A field is honoured or refused by name, never ignored. The fields of the OpenAI API that this server doesn't
have are declared all the same, with `Only` and the values that ask for nothing, so that a client is told
"not supported" and not "unknown", and so that `null` passes.
"""

from __future__ import annotations

import reprlib
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from openm3.config import nearest
from openm3.engine.params import SamplingParams
from openm3.errors import InputError
from openm3.text.grammar import Constraint

UNKNOWN_FIELD = "unknown_field"
UNSUPPORTED_FIELD = "unsupported_field"

MAX_BIASES = 1024

# Of an unknown field's name, which may be as long as the body: longer ones are costly to compare and to echo.
_NAME_LIMIT = 64


class RequestModel(BaseModel):
    """An object in a request: no unknown field, no value converted from another type."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_fields(cls, values: Any) -> Any:
        # Before `extra="forbid"` does it, because only here the nearest known name can be told.
        known = [field.alias or name for name, field in cls.model_fields.items()]
        for name in values if isinstance(values, dict) else ():
            if name not in known:
                name = name[:_NAME_LIMIT]
                hint = nearest(name, known)
                raise PydanticCustomError(UNKNOWN_FIELD, "unknown field{hint}", {"hint": hint, "field": name})
        return values


def missing_field(name: str) -> PydanticCustomError:
    """What a validator of an object raises where it lacks a field that it needs besides others."""
    return PydanticCustomError("missing", "field required", {"field": name})


def wrong_field(name: str, message: str) -> PydanticCustomError:
    """What a validator of an object raises where a field doesn't fit to others."""
    return PydanticCustomError("wrong_field", "{message}", {"field": name, "message": message})


def _refuse_others(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    try:
        return validate(value)
    except ValidationError as error:
        reason = error.errors()[0]
        if reason["type"] == "none_required":
            raise PydanticCustomError(UNSUPPORTED_FIELD, "not supported by this server") from error
        raise PydanticCustomError(
            UNSUPPORTED_FIELD,
            "{value} is not supported by this server; {expected}",
            {"value": reprlib.repr(value), "expected": reason["msg"].lower()},
        ) from error


Only = WrapValidator(_refuse_others)
"""Annotates a field of the OpenAI API whose other values exist there and are not supported here."""

Unsupported = Annotated[None, Only]
"""A field of the OpenAI API that isn't supported with any value."""


def _text_or_list(value: Any) -> str | None:
    return "text" if isinstance(value, str) else "list" if isinstance(value, list) else None


TEXT_OR_LIST = Discriminator(
    _text_or_list,
    custom_error_type="invalid_type",
    custom_error_message="must be a string or a list",
)
"""Tells the branches `Tag("text")` and `Tag("list")` apart, so that an error speaks of the right one."""


def by_type(*kinds: str) -> Discriminator:
    """Tells objects apart by their `type`; the branches are tagged with `kinds`."""

    def kind_of(value: Any) -> str | None:
        kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
        return kind if isinstance(kind, str) and kind in kinds else None

    *most, last = map(repr, kinds)
    expected = f"{', '.join(most)} or {last}" if most else last
    return Discriminator(
        kind_of, custom_error_type=UNSUPPORTED_FIELD, custom_error_message=f"must be of type {expected}"
    )


TokenIdText = Annotated[str, Field(pattern="^[0-9]{1,9}$")]
ToolName = Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
StopText = Annotated[str, Field(max_length=1000)]
Stop = Annotated[
    Annotated[StopText, Tag("text")] | Annotated[list[StopText], Field(max_length=16), Tag("list")],
    TEXT_OR_LIST,
]


class StreamOptions(RequestModel):
    """`include_usage`: a last chunk tells the tokens of the whole request."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[Literal[False] | None, Only] = None


class JsonSchema(RequestModel):
    """A JSON Schema of the answer. It is always kept to, so `strict` makes no difference."""

    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextFormat(RequestModel):
    """Plain text."""

    type: Literal["text"]


class JsonObjectFormat(RequestModel):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchemaFormat(RequestModel):
    """JSON that is valid by a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class RegexFormat(RequestModel):
    """An answer that a regular expression matches from its beginning to its end; not in the OpenAI API."""

    type: Literal["regex"]
    regex: str


class GrammarFormat(RequestModel):
    """An answer by a grammar in Lark's notation, with a rule `start`; not in the OpenAI API."""

    type: Literal["grammar"]
    grammar: str


ResponseFormat = Annotated[
    Annotated[TextFormat, Tag("text")]
    | Annotated[JsonObjectFormat, Tag("json_object")]
    | Annotated[JsonSchemaFormat, Tag("json_schema")]
    | Annotated[RegexFormat, Tag("regex")]
    | Annotated[GrammarFormat, Tag("grammar")],
    by_type("text", "json_object", "json_schema", "regex", "grammar"),
]


def _constraint(asked: ResponseFormat | None) -> Constraint | None:
    """What the engine knows a response format as."""
    match asked:
        case JsonObjectFormat():
            return Constraint.json_object()
        case JsonSchemaFormat(json_schema=JsonSchema(schema_=schema)):
            return Constraint.json_object() if schema is None else Constraint.json_schema(schema)
        case RegexFormat(regex=source):
            return Constraint("regex", source)
        case GrammarFormat(grammar=source):
            return Constraint("grammar", source)
    return None


class GenerationRequest(RequestModel):
    """The fields that chat and plain completions share. Null is as good as absent; ranges are the engine's.

    `user` is metadata of the caller: it changes nothing.
    """

    model: str
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: Stop | None = None
    response_format: ResponseFormat | None = None
    n: Annotated[int, Field(ge=1, le=8)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    logit_bias: Annotated[dict[TokenIdText, float], Field(max_length=MAX_BIASES)] | None = None

    @model_validator(mode="after")
    def _check_stream_options(self) -> GenerationRequest:
        if self.stream_options and not self.stream:
            raise InputError("stream_options", "needs stream to be true")
        return self

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def constraint(self) -> Constraint | None:
        """What the answer has to look like."""
        return _constraint(self.response_format)

    def sampling(self, *, max_tokens: int | None, logprobs: int | None, **more: Any) -> list[SamplingParams]:
        """How each of the `n` choices is sampled; choice i takes `seed + i`, so that they differ and repeat.

        Args:
            max_tokens, logprobs, more: of `SamplingParams`.

        Raises:
            InputError: a value is out of range.
        """
        given = {name: value for name in _SAMPLING_FIELDS if (value := getattr(self, name)) is not None}
        params = SamplingParams(
            **{"temperature": 1.0, **given},  # the API's default; the engine's own is greedy
            max_tokens=max_tokens,
            logprobs=logprobs,
            constraint=self.constraint(),
            logit_bias=tuple((int(token_id), bias) for token_id, bias in (self.logit_bias or {}).items()),
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            **more,
        )
        if self.seed is None:
            return [params] * (self.n or 1)
        return [replace(params, seed=self.seed + i) for i in range(self.n or 1)]


_SAMPLING_FIELDS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)
