"""What all tests share: the default model, fetched once into the user's cache, a tiny random one, and PostgreSQL."""

from __future__ import annotations

import signal
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest
import torch

from helpers import interpreter
from helpers.ray_cluster import RayCluster, ray_cluster
from helpers.tiny import write_tiny_model
from openm3 import hub
from openm3.engine.llm import LLM

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background: programs under test would ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

if not torch.cuda.is_available():  # before any kernel is imported: Triton decides then
    interpreter.turn_on()

# A test may take long on a busy machine; what it found would be the machine.
hypothesis.settings.register_profile("openm3", deadline=None)
hypothesis.settings.load_profile("openm3")


@pytest.fixture(scope="session", autouse=True)
def _data_folder(tmp_path_factory: pytest.TempPathFactory) -> Generator[None, None, None]:
    """Servers that the tests start keep no books in the user's own folder, and go by none of the user's keys."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="session")
def postgres_url() -> Generator[str, None, None]:
    """A PostgreSQL server's maintenance database; each test makes a schema of its own in it."""
    from helpers.postgres import postgres  # its driver is not where only the GPU's tests run

    with postgres() as url:
        yield url


@pytest.fixture(scope="session")
def default_model_path() -> Path:
    """The default model's GGUF file."""
    return hub.pull("default")


@pytest.fixture(scope="session")
def default_llm(default_model_path: Path) -> LLM:
    """The default model as users run it; tests leave its engine idle."""
    return LLM(default_model_path)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the Hugging Face layout: random weights, bytes as tokens, a window of 512."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def cluster() -> Generator[RayCluster, None, None]:
    """A Ray cluster of two nodes; starting one takes seconds."""
    with ray_cluster() as cluster:
        yield cluster
