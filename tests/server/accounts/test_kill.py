"""Servers that are killed in the middle of their streams, again and again: the books stay exact, and nobody wins."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from openm3.server.accounts.database import Database, requests
from openm3.server.accounts.keys import KeyStore
from openm3.server.accounts.ledger import LEASE_S, WINDOW, Ledger, LimitError
from openm3.server.accounts.plans import read_plans

NUM_STREAMS = 3
ON_THE_WAY = 8  # tokens of a stream that were generated and not yet sent

PLANS = """[plain]
tokens_per_day = 100_000
requests_per_minute = "unlimited"
concurrent_requests = "unlimited"
max_context = "unlimited"
answer_tokens = 1_000
weight = 1
models = ["*"]
"""

# Serves in a process of its own for each line that it reads; what is slow is imported once.
SERVERS = """
import os, sys
from helpers.scripted import ScriptedService
from openm3.server.listener import Server, listen, url
from openm3.server.settings import Settings

for line in sys.stdin:
    if not (pid := os.fork()):
        with listen("127.0.0.1", 0) as listener:
            ready = lambda: print(os.getpid(), url(listener), flush=True)
            settings = Settings(database=sys.argv[1], plans=sys.argv[2])
            Server(ScriptedService(tokens=["x"] * 1000, delay_s=0.001), settings, on_ready=ready).run([listener])
    os.waitpid(pid, 0)
"""


class Stream(threading.Thread):
    """A client that counts the tokens that reach it until the server dies."""

    def __init__(self, url: str, key: str, max_tokens: int) -> None:
        super().__init__()
        self.max_tokens, self.num_received = max_tokens, 0
        self._url, self._headers = url, {"authorization": f"Bearer {key}"}

    def run(self) -> None:
        body = {"model": "default", "prompt": "hello", "stream": True, "max_tokens": self.max_tokens}
        try:
            with httpx.stream("POST", f"{self._url}/v1/completions", json=body, headers=self._headers) as stream:
                for line in stream.iter_lines():
                    if line.startswith("data: {"):
                        self.num_received += len(json.loads(line[6:])["choices"][0]["text"])
        except httpx.TransportError:
            pass


@pytest.mark.parametrize(("database_url", "num_kills"), [("sqlite", 6), ("postgresql", 20)], indirect=["database_url"])
def test_quotas_are_exact_after_kills_in_the_middle_of_streams(
    database: Database, database_url: str, num_kills: int, tmp_path: Path
) -> None:
    (tmp_path / "plans.toml").write_text(PLANS)
    plan, chance, all_streams = read_plans(tmp_path / "plans.toml")["plain"], random.Random(7), list[Stream]()
    key, text = KeyStore(database).create(name="", plan="plain")
    command = [sys.executable, "-c", SERVERS, database_url, str(tmp_path / "plans.toml")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as servers:
        assert servers.stdin and servers.stdout
        for _ in range(num_kills):
            print(file=servers.stdin, flush=True)
            pid, url = servers.stdout.readline().split()
            streams = [Stream(url, text, 500 + len(all_streams) + i) for i in range(NUM_STREAMS)]
            for stream in streams:
                stream.start()
            enough, deadline = chance.randint(1, 150), time.monotonic() + 20
            while max(stream.num_received for stream in streams) < enough and time.monotonic() < deadline:
                time.sleep(0.001)
            os.kill(int(pid), signal.SIGKILL)
            for stream in streams:
                stream.join()
            all_streams += streams
        servers.stdin.close()

    after = Ledger(database, lambda: time.time() + LEASE_S)
    after.beat()
    with database.read() as connection:
        rows = {row.reserved - row.prompt_tokens: row for row in connection.execute(requests.select())}
    charged = 0
    for stream in all_streams:
        if row := rows.get(stream.max_tokens):  # else it was killed before the request was admitted
            assert stream.num_received <= row.granted <= stream.num_received + WINDOW + ON_THE_WAY
            assert row.settled_at is not None
            charged += row.prompt_tokens + row.granted
        else:
            assert not stream.num_received
    assert sum(stream.num_received > 0 for stream in all_streams) > num_kills, "they were in the middle"
    assert sum(row.prompt_tokens + row.answer_tokens for row in after.usage(key.id)) == charged
    left = after.allowance(key.id, plan)
    assert (left.reserved_tokens, left.running_requests, left.tokens_left) == (0, 0, 100_000 - charged)
    with pytest.raises(LimitError):
        after.reserve(key.id, plan, "m", 0, 100_001 - charged)
    after.reserve(key.id, plan, "m", 0, 100_000 - charged)
