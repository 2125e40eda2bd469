"""Where prompts go among replicas, and what becomes of them when one is lost; the replicas are scripted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import httpx
import pytest
from openai import OpenAI

from helpers.live_server import eventually, live_server
from helpers.scripted import ScriptedLLM, ScriptedService, ScriptedStatus
from openm3.engine.output import Delta, Progress
from openm3.engine.params import SamplingParams
from openm3.server.errors import ApiError
from openm3.server.replicas.pool import Replicas
from openm3.server.replicas.prefixes import BLOCK, Prefixes, digests
from openm3.server.replicas.replica import ReplicaLostError

LLM: Any = ScriptedLLM(max_context=100_000)
PATH = "/v1/chat/completions"
GREEDY = SamplingParams()


class ScriptedReplica:
    """Keeps the contract of `Replica`: a scripted service that can be lost and can hang.

    Attributes:
        lost_after: events of an answer after which it is lost; None: it isn't.
        hangs: it says nothing any more, until it is restarted.
        reads: prompts are read to their end; else they stay unread.
    """

    def __init__(self, name: str, *, lost_after: int | None = None, reads: bool = True, **service: Any) -> None:
        self.name, self.lost_after, self.reads = name, lost_after, reads
        self.hangs = self.is_lost = self.is_closed = False
        self.num_restarts = 0
        self.service = ScriptedService(llm=LLM, **service)

    @property
    def prompts(self) -> list[list[int]]:
        return [prompt for prompt, _ in self.service.requests]

    async def status(self) -> Any:
        await self._answer()
        return ScriptedStatus(self.service.status().running, num_pages=64, free_pages=64)

    async def stream(self, *args: Any) -> AsyncGenerator[Any, None]:
        await self._answer()
        count = 0
        async with aclosing(self.service.stream(*args)) as events:
            async for event in events:
                if self.lost_after == count:
                    self.is_lost = True
                await self._answer()
                count += 1
                if self.reads or not isinstance(event, Progress):
                    yield event

    async def restart(self) -> None:
        self.num_restarts += 1
        self.hangs = False

    async def aclose(self) -> None:
        self.is_closed = True
        await self.service.aclose()

    async def _answer(self) -> None:
        if self.is_lost:
            raise ReplicaLostError("its process has ended")
        while self.hangs:
            await asyncio.sleep(0.01)


def prompt(name: str, num_tokens: int = 10 * BLOCK) -> list[int]:
    """Tokens of a context; other names have no token in common."""
    return [ord(name)] * num_tokens


async def ask(pool: Replicas, tokens: list[int]) -> str:
    return "".join([event.text async for event in pool.stream(tokens, GREEDY) if isinstance(event, Delta)])


def with_pool(
    work: Callable[..., Any], *replicas: ScriptedReplica, check_s: float = 60.0
) -> tuple[Replicas, list[ScriptedReplica]]:
    """Runs `work` with a started pool, and closes it."""
    made = list(replicas) or [ScriptedReplica(str(i)) for i in range(3)]
    pool = Replicas(LLM, made, check_s=check_s, patience_s=0.1)

    async def run() -> None:
        await pool.start()
        try:
            await work(pool, *made)
        finally:
            await pool.aclose()

    asyncio.run(run())
    assert all(replica.is_closed for replica in made)
    return pool, made


def test_the_same_context_goes_to_the_same_replica() -> None:
    async def work(pool: Replicas, *_: ScriptedReplica) -> None:
        for question in range(4):
            for name in "abcdef":
                assert await ask(pool, [*prompt(name), question]) == "Hello, world!"

    pool, replicas = with_pool(work)
    for replica in replicas:  # two contexts each, with all their questions
        assert sorted(tokens[0] for tokens in replica.prompts) == sorted(
            4 * [*{tokens[0] for tokens in replica.prompts}]
        )
        assert len({tokens[0] for tokens in replica.prompts}) == 2
    told = pool.status().replicas
    assert [(one.num_served, one.num_known) for one in told] == [(8, 6 * 10 * BLOCK)] * 3


def test_a_replica_with_much_to_read_is_passed_by() -> None:
    """The one that knows the context would begin later than another one that reads all of it."""

    async def work(pool: Replicas, first: ScriptedReplica, second: ScriptedReplica) -> None:
        await ask(pool, prompt("a"))
        assert len(first.prompts) == 1
        first.reads, first.service.delay_s = False, 0.2
        long = asyncio.create_task(ask(pool, prompt("a", 10 * BLOCK) + prompt("x", 5 * BLOCK)))
        await asyncio.sleep(0.05)
        await ask(pool, [*prompt("a"), 1])  # 5 blocks are unread, 10 are known: still here
        assert (len(first.prompts), len(second.prompts)) == (3, 0)
        longer = asyncio.create_task(ask(pool, prompt("a", 10 * BLOCK) + prompt("y", 20 * BLOCK)))
        await asyncio.sleep(0.05)
        await ask(pool, [*prompt("a"), 2])  # 25 blocks would have to be read first
        assert (len(first.prompts), len(second.prompts)) == (4, 1)
        await asyncio.gather(long, longer)
        assert all(one.running == 0 for one in pool.status().replicas)
        await ask(pool, [*prompt("a"), 3])
        assert len(first.prompts) + len(second.prompts) == 6

    with_pool(work, ScriptedReplica("0"), ScriptedReplica("1"))


def test_short_prompts_are_spread_by_what_runs() -> None:
    async def work(pool: Replicas, *_: ScriptedReplica) -> None:
        await asyncio.gather(*(ask(pool, [1, 2, i]) for i in range(9)))

    _, replicas = with_pool(work)
    assert [len(replica.prompts) for replica in replicas] == [3, 3, 3]


@pytest.mark.parametrize("lost_after", [0, 1], ids=["before anything", "after the prompt"])
def test_a_request_is_asked_again_where_its_replica_is_lost_before_the_first_token(lost_after: int) -> None:
    async def work(pool: Replicas, first: ScriptedReplica, second: ScriptedReplica) -> None:
        assert await ask(pool, prompt("a")) == "Hello, world!"
        assert (len(first.prompts), len(second.prompts)) == (1, 1)
        assert [(one.is_up, one.num_failed) for one in pool.status().replicas] == [(False, 1), (True, 0)]
        await ask(pool, prompt("b"))
        assert len(first.prompts) == 1  # nothing goes there until it answers a check
        first.is_lost, first.lost_after = False, None
        while not pool.status().replicas[0].is_up:
            await asyncio.sleep(0.01)
        await ask(pool, prompt("c"))
        assert len(first.prompts) == 2

    with_pool(work, ScriptedReplica("0", lost_after=lost_after), ScriptedReplica("1"), check_s=0.05)


def test_what_has_begun_is_not_begun_again() -> None:
    async def work(pool: Replicas, _: ScriptedReplica, second: ScriptedReplica) -> None:
        said = []
        with pytest.raises(ApiError, match="the engine that was answering is lost"):
            async for event in pool.stream(prompt("a"), GREEDY):
                said.append(event)
        assert [type(event) for event in said] == [Progress, Delta]
        assert not second.prompts

    with_pool(work, ScriptedReplica("0", lost_after=2), ScriptedReplica("1"))


def test_a_replica_that_hangs_is_restarted_and_its_requests_go_elsewhere() -> None:
    async def work(pool: Replicas, first: ScriptedReplica, second: ScriptedReplica) -> None:
        await ask(pool, prompt("a"))
        first.hangs = True
        assert await asyncio.wait_for(ask(pool, [*prompt("a"), 1]), 2) == "Hello, world!"
        assert len(second.prompts) == 1
        assert first.num_restarts == 1
        while not pool.status().replicas[0].is_up:
            await asyncio.sleep(0.01)
        await ask(pool, [*prompt("a"), 2])  # the second has read it; the first one's memory is gone
        assert len(second.prompts) == 2

    with_pool(work, ScriptedReplica("0"), ScriptedReplica("1"), check_s=0.05)


def test_closing_a_stream_cancels_its_request_at_the_replica() -> None:
    async def work(pool: Replicas, replica: ScriptedReplica) -> None:
        events = pool.stream(prompt("a"), GREEDY)
        await anext(events)
        assert pool.status().running == 1
        await events.aclose()
        assert pool.status().running == 0
        assert replica.service.num_cancelled == 1

    with_pool(work, ScriptedReplica("0"))


def test_clients_and_operators_see_it() -> None:
    replicas = [ScriptedReplica("0"), ScriptedReplica("1")]
    with live_server(Replicas(LLM, replicas, check_s=0.05)) as url:
        with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            answer = client.chat.completions.create(model="default", messages=[{"role": "user", "content": "hi"}])
            assert answer.choices[0].message.content == "Hello, world!"
        assert httpx.get(f"{url}/healthz").json()["replicas_up"] == 2
        lines = httpx.get(f"{url}/metrics").text.splitlines()
        assert 'openm3:replica_up{model_name="scripted",replica="1"} 1.0' in lines
        assert 'openm3:replica_requests_total{model_name="scripted",replica="0"} 1.0' in lines

        replicas[0].lost_after = 2
        body = {"model": "default", "messages": [{"role": "user", "content": "x"}], "stream": True}
        replicas[1].is_lost = True
        assert eventually(lambda: httpx.get(f"{url}/healthz").json()["replicas_up"] == 1)
        last = httpx.post(f"{url}{PATH}", json=body).text.strip().split("\n\n")[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "replica_lost"
        assert (
            httpx.get(f"{url}/healthz").json() | {"replicas": 2, "replicas_up": 0} == httpx.get(f"{url}/healthz").json()
        )
        assert httpx.get(f"{url}/readyz").status_code == 503
        refused = httpx.post(f"{url}{PATH}", json=body | {"stream": False})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_replica")
        assert refused.headers["retry-after"] == "5"


def test_a_prefix_is_known_block_by_block_and_the_oldest_are_forgotten() -> None:
    prefixes = Prefixes()
    first, other = digests(prompt("a", 4 * BLOCK + 5)), digests(prompt("a", 2 * BLOCK) + prompt("b", 2 * BLOCK))
    assert (len(first), len(digests(prompt("a", BLOCK - 1)))) == (4, 0)
    assert first[:2] == other[:2] and first[2] != other[2]
    prefixes.add(first, 5)
    assert (prefixes.num_known(first), prefixes.num_known(other)) == (4 * BLOCK, 2 * BLOCK)
    prefixes.add(other, 5)  # the last block of the first one goes, and no block before one that stays
    assert (prefixes.num_known(first), prefixes.num_known(other)) == (3 * BLOCK, 4 * BLOCK)
    prefixes.clear()
    assert prefixes.num_known(other) == 0
