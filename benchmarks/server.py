"""The HTTP server: what it adds to an engine, and what it does under more load than it can serve.

    python -m benchmarks.server [--sections stream first engine flood] [--seconds 60]

The server is a process of its own, on one core where there are two, and its clients are raw sockets in this one. First
a gate: one stream, and 32 at once, give every token in its own chunk, in their order, else no speed is printed.

- stream: a scripted engine that makes tokens instantly behind the real `Service`; 32 streams of 500 tokens. Chunks a
  second of the server's processor time (the goal: 1,500) and of the clock.
- first: 32 streams of 25 tokens a second each, and the time to the first token of further ones; the engine's own step
  is subtracted (the goal: 5 ms added).
- engine: the default model, the same requests through HTTP and through `Service` alone, by turns (the goal: at most 5%
  slower).
- flood: 500 clients that ask again and again, 8 places, a queue of 64. Every request ends with 200 or 529; memory of
  the server after a warm-up, and `/healthz` all the while (the goals: within 5%, p99 below 100 ms).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from multiprocessing import get_context
from typing import Any

import psutil

from benchmarks.machine import describe, save, spread
from benchmarks.server_clients import ask, get

STREAMS, TOKENS = 32, 500
STEP_S = 0.04  # of the engine that streams at the pace of a real one
CLIENTS, QUEUE, PLACES = 500, 64, 8
WARM_UP = 0.25  # of the flood's time


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(SECTIONS)
    options.add_argument("--sections", nargs="+", choices=names, default=names)
    options.add_argument("--seconds", type=float, default=60.0)
    asked = options.parse_args()
    report: dict[str, Any] = {"machine": describe()}
    with scripted_server() as (port, _):
        asyncio.run(check(port))
    for name in asked.sections:
        report[name] = SECTIONS[name](asked.seconds)
    save("server", report, table(report))


async def check(port: int) -> None:
    """Every token comes in its own chunk, one stream like 32."""
    one = await ask(port, 20, keep=True)
    for each in await asyncio.gather(*(ask(port, 20, keep=True) for _ in range(STREAMS))):
        assert each.status == one.status == 200
        assert each.num_chunks == one.num_chunks == 21  # the first says whose turn it is
        assert each.text.count(b'"content":" token"') == 20
        assert b"data: [DONE]" in each.text[-40:]


def stream(_: float) -> dict[str, Any]:
    """Chunks a second."""

    async def all_streams(port: int) -> int:
        return sum(each.num_chunks for each in await asyncio.gather(*(ask(port, TOKENS) for _ in range(STREAMS))))

    a_cpu_second, a_second = [], []
    with scripted_server() as (port, server):
        asyncio.run(all_streams(port))
        for _ in range(5):
            cpu, began = cpu_s(server), time.perf_counter()
            count = asyncio.run(all_streams(port))
            a_cpu_second.append(count / (cpu_s(server) - cpu))
            a_second.append(count / (time.perf_counter() - began))
    return {"chunks_a_cpu_second": spread(a_cpu_second), "chunks_a_second": spread(a_second)}


def first(_: float) -> dict[str, Any]:
    """Milliseconds that are added to the first token."""

    async def probe(port: int) -> list[float]:
        others = [asyncio.create_task(ask(port, 400)) for _ in range(STREAMS)]
        await asyncio.sleep(0.5)
        samples = []
        for _ in range(60):
            answered = await ask(port, 1)
            samples.append(answered.first_s)
        for task in others:
            task.cancel()
        await asyncio.wait(others)
        return samples

    async def alone() -> list[float]:
        """The same from the service itself, in this process."""
        from benchmarks.scripted_engine import ScriptedEngine, ScriptedLLM
        from openm3.engine.output import Delta
        from openm3.engine.params import SamplingParams
        from openm3.engine.service import Service

        llm: Any = ScriptedLLM(ScriptedEngine(STEP_S))
        service = Service(llm)
        await service.start()

        async def read(num_tokens: int) -> float:
            began, first_s = time.perf_counter(), 0.0
            async for event in service.stream([1, 2], SamplingParams(max_tokens=num_tokens)):
                if isinstance(event, Delta) and not first_s:
                    first_s = time.perf_counter() - began
            return first_s

        others = [asyncio.create_task(read(400)) for _ in range(STREAMS)]
        await asyncio.sleep(0.5)
        samples = [await read(1) for _ in range(60)]
        for task in others:
            task.cancel()
        await asyncio.wait(others)
        await service.aclose()
        return samples

    with scripted_server(step_s=STEP_S) as (port, _):
        through = asyncio.run(probe(port))
    engine = asyncio.run(alone())
    return {
        "through_ms": 1000 * statistics.median(through),
        "engine_ms": 1000 * statistics.median(engine),
        "added_ms": 1000 * (statistics.median(through) - statistics.median(engine)),
    }


def engine(_: float) -> dict[str, Any]:
    """Tokens a second of the default model through HTTP, over those of the service alone."""
    from openm3.engine.llm import LLM
    from openm3.engine.service import Service
    from openm3.server.listener import Server, listen

    async def run() -> list[float]:
        llm = LLM("default")
        ratios = []
        with listen("127.0.0.1", 0) as listener:
            service = Service(llm)
            server = Server(service)
            task = asyncio.create_task(server.serve(sockets=[listener]))
            while not server.started:
                await asyncio.sleep(0.01)
            port = listener.getsockname()[1]
            for turn in range(7):
                first_is_http = turn % 2 == 0
                took = {}
                for http in (first_is_http, not first_is_http):
                    began = time.perf_counter()
                    await asyncio.gather(*(_one(service, llm, port, http) for _ in range(8)))
                    took[http] = time.perf_counter() - began
                if turn:
                    ratios.append(took[False] / took[True])
            server.should_exit = True
            await task
        return ratios

    return {"share_of_the_engine": spread(asyncio.run(run()))}


async def _one(service: Any, llm: Any, port: int, http: bool) -> None:
    from openm3.engine.params import SamplingParams

    question = "Write a long story about a sailor."
    if http:
        answered = await ask(port, 96, content=question, temperature=0)
        assert answered.status == 200
    else:
        prompt = llm.encode_chat([{"role": "user", "content": question}])
        async for _ in service.stream(prompt, SamplingParams(max_tokens=96)):
            pass


def flood(seconds: float) -> dict[str, Any]:
    """What happens to 500 clients where 72 can be taken."""

    async def run(port: int, server: psutil.Process) -> dict[str, Any]:
        statuses: Counter[int] = Counter()
        ends, memory, cpu = time.perf_counter() + seconds, [], cpu_s(server)

        async def client() -> None:
            await asyncio.sleep(random.random())
            while time.perf_counter() < ends:
                answered = await ask(port, 20, stream=bool(sum(statuses.values()) % 2))
                statuses[answered.status] += 1
                if answered.status != 200:
                    await asyncio.sleep(1 + random.random())  # as `retry-after` says, not all at the same moment

        async def watch() -> None:
            while time.perf_counter() < ends:
                memory.append(server.memory_info().rss)
                await asyncio.sleep(0.1)

        async with probe(port, seconds) as health:
            await asyncio.gather(watch(), *(client() for _ in range(CLIENTS)))
        steady = memory[int(len(memory) * WARM_UP) :]
        return {
            "statuses": dict(sorted(statuses.items())),
            "memory_mb": spread([size / 1e6 for size in steady]),
            "memory_change": steady[-1] / steady[0] - 1,
            "cpu_ms_a_request": 1000 * (cpu_s(server) - cpu) / statuses.total(),
            "healthz_p99_ms": 1000 * statistics.quantiles(health, n=100)[98],
            "seconds": seconds,
        }

    with scripted_server(step_s=0.01, max_running=PLACES, max_waiting=QUEUE) as (port, server):
        return asyncio.run(run(port, server))


SECTIONS = {"stream": stream, "first": first, "engine": engine, "flood": flood}


@contextmanager
def scripted_server(
    *, step_s: float = 0.0, max_running: int = 256, **settings: Any
) -> Generator[tuple[int, psutil.Process], None, None]:
    """A server in a process of its own, on a core of its own where there are two: its port, and the process."""
    cores = sorted(os.sched_getaffinity(0))
    ours, theirs = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_serve, args=(theirs, cores[-1], step_s, max_running, settings))
    process.start()
    os.sched_setaffinity(0, set(cores[:-1]) or set(cores))
    try:
        assert ours.poll(60), "the server did not start"
        yield ours.recv(), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.join()
        os.sched_setaffinity(0, set(cores))


@asynccontextmanager
async def probe(port: int, seconds: float) -> AsyncGenerator[list[float], None]:
    """Asks `/healthz` from a process of its own, which the clients don't slow; the seconds are there afterwards."""
    ours, theirs = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_probe, args=(theirs, port, seconds))
    process.start()
    samples: list[float] = []
    yield samples
    samples += await asyncio.to_thread(ours.recv)
    process.join()


def _probe(pipe: Any, port: int, seconds: float) -> None:
    async def ask_again_and_again() -> list[float]:
        ends, samples = time.perf_counter() + seconds, []
        while time.perf_counter() < ends:
            samples.append(await get(port, "/healthz"))
            await asyncio.sleep(0.05)
        return samples

    pipe.send(asyncio.run(ask_again_and_again()))


def _serve(pipe: Any, core: int, step_s: float, max_running: int, settings: dict[str, Any]) -> None:
    from benchmarks.scripted_engine import ScriptedEngine, ScriptedLLM
    from openm3.engine.service import Service
    from openm3.server.listener import Server, listen
    from openm3.server.settings import Settings

    os.sched_setaffinity(0, {core})
    llm: Any = ScriptedLLM(ScriptedEngine(step_s, max_running))
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        Server(Service(llm), Settings(**settings), on_ready=lambda: pipe.send(port)).run(sockets=[listener])


def cpu_s(process: psutil.Process) -> float:
    """Seconds of processor time that a process has used."""
    times = process.cpu_times()
    return times.user + times.system


def table(report: dict[str, Any]) -> str:
    rows = ["| what | measured | goal |", "|---|---|---|"]
    if it := report.get("stream"):
        rows.append(f"| chunks a second of processor time | {it['chunks_a_cpu_second']['median']:,.0f} | 1,500 |")
        rows.append(f"| chunks a second, {STREAMS} streams | {it['chunks_a_second']['median']:,.0f} | |")
    if it := report.get("first"):
        rows.append(f"| added to the first token, {STREAMS} streams | {it['added_ms']:.1f} ms | 5 ms |")
    if it := report.get("engine"):
        rows.append(f"| of the engine's speed, default model | {it['share_of_the_engine']['median']:.1%} | 95% |")
    if it := report.get("flood"):
        counts = ", ".join(f"{count:,} x {status}" for status, count in it["statuses"].items())
        rows.append(f"| {CLIENTS} clients, a queue of {QUEUE}, {it['seconds']:g} s | {counts} | 200, 429, 529 |")
        rows.append(f"| processor time of a request | {it['cpu_ms_a_request']:.1f} ms | |")
        rows.append(f"| memory after a warm-up | {it['memory_change']:+.1%} | within 5% |")
        rows.append(f"| p99 of /healthz | {it['healthz_p99_ms']:.0f} ms | 100 ms |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
