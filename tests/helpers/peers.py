"""Servers of others with the OpenAI API, as processes of their own."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx

# llama.cpp's has to be compiled, so it is a peer where it is installed: pip install 'llama-cpp-python[server]'.
PEERS = ("transformers", *(["llama.cpp"] if importlib.util.find_spec("starlette_context") else []))


@contextmanager
def peer(name: str, *, tiny: Path, gguf: Path) -> Generator[tuple[str, str], None, None]:
    """Starts one and yields its URL and what it calls its model.

    Args:
        tiny: a folder with a model in the Hugging Face layout, for transformers.
        gguf: a file, for llama.cpp.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    if name == "transformers":
        config = tiny / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"architectures": ["LlamaForCausalLM"]}))
        asked = ["transformers.cli.transformers", "serve", str(tiny), "--port", str(port)]
    else:
        asked = ["llama_cpp.server", "--model", str(gguf), "--n_ctx", "512", "--port", str(port)]
    log = tiny.parent / f"{name}.log"
    with log.open("w") as out:
        process = subprocess.Popen([sys.executable, "-m", *asked], stdout=out, stderr=out)
    url = f"http://127.0.0.1:{port}"
    try:
        yield url, _model(url, process, log)
    finally:
        process.kill()
        process.wait()


def _model(url: str, process: subprocess.Popen[bytes], log: Path) -> str:
    """What it calls its model, once it is up."""
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            listed = httpx.get(f"{url}/v1/models").json()["data"]
            return str(listed[0]["id"])
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(log.read_text())
