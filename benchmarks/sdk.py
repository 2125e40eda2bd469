"""What the `minimax` client costs over the `openai` package it stands on.

    python -m benchmarks.sdk [--repeats 7] [--tasks 1000] [--connections 50] [--delay-ms 200]

- import: seconds of `import minimax` less those of `import openai`, in processes of their own, by turns.
- call: milliseconds of a completion with our client less those with `openai.OpenAI`, by turns, answered in memory.
- batch: seconds of `batch_complete` against a server on a socket that takes `delay` for an answer, over the ideal:
  tasks / connections * delay.

The gate: both clients read the same text, and a batch's results stand in the order of its tasks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import httpx2
import openai

from benchmarks.machine import RESULTS, describe, save, spread
from minimax import AsyncMiniMaxM3, MiniMaxM3
from minimax.testing import ScriptedTransport
from minimax.types import Failure

CALLS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--delay-ms", type=float, default=200)
    options = parser.parse_args()
    report: dict[str, Any] = {"benchmark": "sdk", "machine": describe()}
    report["import_s"] = imports(options.repeats)
    report["call_ms"] = calls(options.repeats)
    report["batch"] = batches(options.tasks, options.connections, options.delay_ms / 1e3)
    save("sdk", report, table(report), RESULTS)


def imports(repeats: int) -> dict[str, float]:
    """The difference of medians, and both."""
    seconds: dict[str, list[float]] = {"openai": [], "minimax": []}
    for _ in range(repeats):
        for module, samples in seconds.items():
            code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
            samples.append(float(subprocess.check_output([sys.executable, "-c", code])))
    openai_s, minimax_s = (statistics.median(samples) for samples in seconds.values())
    return {"openai": openai_s, "minimax": minimax_s, "more": minimax_s - openai_s}


def calls(repeats: int) -> dict[str, Any]:
    """Milliseconds of one completion."""
    transports = ScriptedTransport("x" for _ in iter(int, 1)), ScriptedTransport("x" for _ in iter(int, 1))
    theirs = openai.OpenAI(
        api_key="none", base_url="http://peer/v1", http_client=httpx2.Client(transport=transports[0])
    )
    ours = MiniMaxM3(transport=transports[1])
    asks: dict[str, Callable[[], Any]] = {
        "openai": lambda: theirs.completions.create(model="default", prompt="hello"),
        "minimax": lambda: ours.complete("hello"),
    }
    if len({ask().choices[0].text for ask in asks.values()}) != 1:
        raise SystemExit("gate: the two clients read different texts; nothing is printed")
    samples: dict[str, list[float]] = {name: [] for name in asks}
    for _ in range(repeats):
        for name, ask in asks.items():
            started = time.perf_counter()
            for _ in range(CALLS):
                ask()
            samples[name].append((time.perf_counter() - started) / CALLS * 1e3)
    more = statistics.median(samples["minimax"]) - statistics.median(samples["openai"])
    return {**{name: spread(times) for name, times in samples.items()}, "more": more}


def batches(tasks: int, connections: int, delay_s: float) -> dict[str, Any]:
    """Seconds of a batch with each client, and how often the ideal."""
    work = [{"prompt": str(number), "max_tokens": 1} for number in range(tasks)]
    ideal_s = -(-tasks // connections) * delay_s
    with slow_server(delay_s) as url:
        started = time.perf_counter()
        with MiniMaxM3(base_url=url, max_connections=connections, max_keepalive_connections=connections) as client:
            threads = client.batch_complete(work)
        threads_s = time.perf_counter() - started

        async def complete() -> list[Any]:
            async with AsyncMiniMaxM3(
                base_url=url, max_connections=connections, max_keepalive_connections=connections
            ) as client:
                return await client.batch_complete(work)

        started = time.perf_counter()
        tasks_of_asyncio = asyncio.run(complete())
        asyncio_s = time.perf_counter() - started
    for results in (threads, tasks_of_asyncio):
        if any(isinstance(it, Failure) or it.choices[0].text != str(number) for number, it in enumerate(results)):
            raise SystemExit("gate: a batch lost an answer or its order; nothing is printed")
    return {
        "tasks": tasks,
        "connections": connections,
        "ideal_s": ideal_s,
        "threads": threads_s / ideal_s,
        "asyncio": asyncio_s / ideal_s,
    }


@contextmanager
def slow_server(delay_s: float) -> Generator[str, None, None]:
    """Answers completions with their prompts after a delay, in a process of its own; yields its base URL."""
    context = multiprocessing.get_context("spawn")
    port, told = context.Pipe(duplex=False)
    process = context.Process(target=serve, args=(told, delay_s), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{port.recv()}/v1"
    finally:
        process.terminate()
        process.join()


def serve(port: Connection, delay_s: float) -> None:
    """Serves until the process ends."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                return writer.close()
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            prompt = json.loads(await reader.readexactly(int(length.split(b":")[1])))["prompt"]
            await asyncio.sleep(delay_s)
            choice = {"index": 0, "text": prompt, "finish_reason": "stop", "logprobs": None}
            body = json.dumps({"id": "c", "object": "text_completion", "created": 0, "model": "m", "choices": [choice]})
            lines = ("HTTP/1.1 200 OK", "content-type: application/json", f"content-length: {len(body)}", "", body)
            writer.write("\r\n".join(lines).encode())

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def table(report: dict[str, Any]) -> str:
    imported, called, batch = report["import_s"], report["call_ms"], report["batch"]
    return "\n".join(
        [
            "| | openai | minimax | more |",
            "|---|---|---|---|",
            f"| import, s | {imported['openai']:.2f} | {imported['minimax']:.2f} | {imported['more']:.2f} |",
            f"| a completion, ms | {called['openai']['median']:.2f} | {called['minimax']['median']:.2f} "
            f"| {called['more']:.2f} |",
            "",
            f"{batch['tasks']:,} completions over {batch['connections']} connections, ideal {batch['ideal_s']:.1f} s: "
            f"{batch['threads']:.2f} times that in threads, {batch['asyncio']:.2f} times with asyncio.",
        ]
    )


if __name__ == "__main__":
    main()
