"""The model of a request as skills ask it: a question is an answer as of other endpoints, metered and queued."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from minimax_code.errors import ModelError
from minimax_code.model import Abilities, Reply, Request
from minimax_code.model import Usage as ModelUsage
from openm3.errors import InputError, OpenM3Error
from openm3.server.callers import Caller
from openm3.server.conversation import Talk
from openm3.server.errors import ApiError
from openm3.server.schema.chat import ChatRequest
from openm3.server.schema.response import CompletionDetails, PromptDetails, Usage
from openm3.server.wording import Piece


class ServedModel:
    """A `Model` for one request to the server, on behalf of its caller.

    Args:
        talk: answers.
        asked: what the caller calls the model.
        sampling: fields of a chat completion that hold for every question, in the place of the skill's own.
        fields: what the caller knows the fields of a conversation as, as in `renamed`.
        told: hears every piece of the first answer.

    Raises:
        ApiError: there is no such model.
    """

    def __init__(
        self,
        talk: Talk,
        asked: str,
        caller: Caller,
        request_id: str,
        *,
        sampling: Mapping[str, Any],
        fields: Mapping[str, str],
        told: Callable[[Piece], None] | None = None,
    ) -> None:
        self._talk, self._asked, self._speaker = talk, asked, talk.speaker(asked)
        self._caller, self._request_id = caller, request_id
        self._sampling, self._fields, self._told = sampling, fields, told
        self._usages: list[Usage] = []
        self.replies: list[Reply] = []

    @property
    def name(self) -> str:
        """The model's own."""
        return self._speaker.name

    @property
    def usage(self) -> Usage:
        """The tokens of all answers."""
        return total(self._usages)

    async def abilities(self) -> Abilities:
        """What is known of the model.

        Raises:
            InputError: its server doesn't say how long its window is.
        """
        if self._speaker.window is None:
            raise InputError("model", f"the server of {self.name!r} doesn't say how long its window is, as this needs")
        return Abilities(context_tokens=self._speaker.window, takes_json_schema=self._speaker.keeps_to_schemas)

    async def reply(self, request: Request) -> Reply:
        """The model's answer.

        Raises:
            InputError, ApiError: the first question can't be served, as in every endpoint.
            ModelError: a further one can't.
        """
        told = None if self.replies else self._told
        try:
            return await self._reply(request, told)
        except (OpenM3Error, ApiError) as error:
            if not self.replies:
                raise
            raise ModelError(str(error)) from error

    async def _reply(self, request: Request, told: Callable[[Piece], None] | None) -> Reply:
        asked: dict[str, Any] = {
            "model": self._asked,
            "messages": [{"role": turn.role, "content": turn.content} for turn in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
            "stop": list(request.stop) or None,
            **self._sampling,
        }
        if request.json_schema is not None:
            schema = {"name": "answer", "schema": dict(request.json_schema)}
            asked["response_format"] = {"type": "json_schema", "json_schema": schema}
        given = {name: value for name, value in asked.items() if value is not None}
        answer = await self._talk.converse(ChatRequest.model_validate(given), self._fields, self._request_id)
        pieces: list[Piece] = []
        async with aclosing(answer.pieces(self._caller)) as arriving:
            async for piece in arriving:
                pieces.append(piece)
                if told:
                    told(piece)
        whole, usage = Piece.join(pieces), answer.usage
        self._usages.append(usage)
        reply = Reply(
            content=whole.text,
            thinking=whole.reasoning,
            finish_reason="length" if whole.finish_reason == "length" else "stop",
            usage=ModelUsage(
                prompt_tokens=usage.prompt_tokens,
                cached_tokens=usage.prompt_tokens_details.cached_tokens,
                completion_tokens=usage.completion_tokens,
            ),
        )
        self.replies.append(reply)
        return reply


def total(usages: Sequence[Usage]) -> Usage:
    """The tokens of several answers, or of none."""
    prompt, completion = (
        sum(getattr(usage, name) for usage in usages) for name in ("prompt_tokens", "completion_tokens")
    )
    cached = sum(usage.prompt_tokens_details.cached_tokens for usage in usages)
    thought = sum(usage.completion_tokens_details.reasoning_tokens for usage in usages)
    dropped = sum(usage.dropped_tokens or 0 for usage in usages)
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=PromptDetails(cached_tokens=cached),
        completion_tokens_details=CompletionDetails(reasoning_tokens=thought),
        dropped_tokens=dropped or None,
    )
