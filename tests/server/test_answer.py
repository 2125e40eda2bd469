"""What an answer reserves, spends and settles, by a meter that writes everything down."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field

import pytest

from helpers.scripted import ScriptedService
from openm3.engine.params import SamplingParams
from openm3.errors import InputError
from openm3.server.answer import Answer, whole
from openm3.server.callers import Caller
from openm3.server.errors import ApiError
from openm3.server.routes.completions import CompletionWording


@dataclass
class Notebook:
    """A meter, and the one reservation that it gives."""

    answer_tokens: int | None = None
    may_spend: int = 1000
    asked: tuple[str, int, int | None, int] | None = None
    spent: list[tuple[int, int]] = field(default_factory=list)
    num_settled: int = 0

    async def reserve(
        self, caller: Caller, model: str, prompt_tokens: int, answer_tokens: int | None, num_answers: int
    ) -> Notebook:
        self.asked = (model, prompt_tokens, answer_tokens, num_answers)
        return self

    async def spend(self, prompt_tokens: int, answer_tokens: int) -> None:
        if answer_tokens > self.may_spend:
            raise ApiError(429, "enough", code="rate_limit_exceeded")
        self.spent.append((prompt_tokens, answer_tokens))

    async def settle(self) -> None:
        await asyncio.sleep(0)  # as a database would
        self.num_settled += 1


def answer(service: ScriptedService, num_prompts: int = 1, n: int = 1, max_tokens: int | None = None) -> Answer:
    prompts = [[1, 2, 3]] * num_prompts
    return Answer(service, prompts, [SamplingParams(max_tokens=max_tokens)] * n, {})  # type: ignore[arg-type]


def complete(meter: Notebook, asked: Answer, service: ScriptedService) -> None:
    async def run() -> None:
        await service.start()
        await whole(asked, CompletionWording(service.llm, include_usage=False), Caller(meter=meter))  # type: ignore[arg-type]

    asyncio.run(run())


@pytest.mark.parametrize(("max_tokens", "reserved", "spent"), [(3, 12, 12), (100, 400, 16), (None, None, 16)])
def test_all_choices_are_reserved_together_and_what_they_said_is_spent(
    max_tokens: int | None, reserved: int | None, spent: int
) -> None:
    service, meter = ScriptedService(), Notebook()
    complete(meter, answer(service, num_prompts=2, n=2, max_tokens=max_tokens), service)
    assert meter.asked == ("scripted", 6, reserved, 4)
    assert meter.spent[0] == (6, 0), "prompts are spent when they are begun"
    assert meter.spent[-1] == (6, spent)
    assert meter.num_settled == 1


def test_a_request_that_names_no_limit_is_kept_to_what_was_reserved() -> None:
    service, meter = ScriptedService(), Notebook(answer_tokens=7)
    complete(meter, answer(service, n=3), service)
    assert [params.max_tokens for _, params in service.requests] == [2, 2, 2]
    assert meter.spent[-1] == (3, 6)


@pytest.mark.parametrize("leave_after", [1, 3])
def test_a_client_that_goes_away_pays_what_was_generated(leave_after: int) -> None:
    service, meter = ScriptedService(tokens=["x"] * 100), Notebook()

    async def ask() -> None:
        await service.start()
        async with aclosing(answer(service).pieces(Caller(meter=meter))) as pieces:
            for _ in range(leave_after):
                await anext(pieces)

    asyncio.run(ask())
    num_prompt, num_generated = meter.spent[-1]
    assert num_prompt == 3 and leave_after - 1 <= num_generated <= leave_after, "at most one is on its way"
    assert meter.num_settled == 1
    assert service.num_cancelled == 1


def test_what_may_not_be_spent_is_not_said() -> None:
    service, meter = ScriptedService(), Notebook(may_spend=2)
    with pytest.raises(ApiError, match="enough"):
        complete(meter, answer(service), service)
    assert (meter.spent[-1], meter.num_settled, service.num_cancelled) == ((3, 2), 1, 1)


def test_what_could_not_begin_costs_nothing() -> None:
    service, meter = ScriptedService(), Notebook()
    asked = Answer(service, [[]], [SamplingParams()], {})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="prompt"):
        complete(meter, asked, service)
    assert (meter.spent, meter.num_settled) == ([], 1)
