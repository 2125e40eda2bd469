"""Thinking and images at the command line, with a model that a test has taught what to say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from helpers.sayings import say
from helpers.seeing_m3 import png, write_seeing_m3
from openm3.cli.main import openm3
from openm3.errors import InputError

SHORT = ("--dtype", "float32", "--max-tokens", "60")
TOLD = "<mm:think>two and\ntwo</mm:think>]<]minimax[>[four"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_seeing_m3(tmp_path_factory.mktemp("models") / "m3")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    say(TOLD, monkeypatch)
    yield


def run(*args: str | Path, given: str = "", color: bool = False) -> Result:
    result = CliRunner().invoke(openm3, [*map(str, args)], input=given, color=color)
    if result.exception and not isinstance(result.exception, SystemExit | InputError):
        raise result.exception
    return result


@pytest.mark.usefixtures("told")
def test_thinking_is_apart_and_markers_are_not_shown(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("2 + 2")
    asked = run("ask", "-m", folder, *SHORT, "-c", tmp_path / "a.txt", "What?")
    assert asked.stdout == "four\n"
    assert "two and\ntwo\n\n" in asked.stderr
    talked = run("chat", "-m", folder, *SHORT, given="What?\n")
    assert (talked.stdout, talked.stderr) == ("four\n", "two and\ntwo\n\n")
    dimmed = run("chat", "-m", folder, *SHORT, given="What?\n", color=True)
    assert dimmed.stderr.startswith("\x1b[2mt\x1b[0m\x1b[2mw")
    generated = run("generate", "-m", folder, *SHORT, "--chat", "--json", "What?")
    answer = json.loads(generated.stdout)
    assert (answer["text"], answer["thinking"]) == ("four", "two and\ntwo")
    plain = run("generate", "-m", folder, *SHORT, "What?")
    assert plain.stdout == "two and\ntwo]<]minimax[>[four\n", "no conversation: text without control tokens"


def test_ask_about_images(folder: Path, tmp_path: Path) -> None:
    for name, seed in (("a.png", 1), ("b.png", 2)):
        (tmp_path / name).write_bytes(png(seed=seed))
    (tmp_path / "c.txt").write_text("x")
    options = ("-m", folder, "--dtype", "float32", "--max-tokens", "30")
    one = run("ask", *options, "--image", tmp_path / "a.png", "What is it?")
    assert one.exit_code == 0
    assert "0 files, 1 images, " in one.stderr
    assert one.stdout == run("ask", *options, "--image", tmp_path / "a.png", "What is it?").stdout
    assert one.stdout != run("ask", *options, "--image", tmp_path / "b.png", "What is it?").stdout
    both = run("ask", *options, *("--image", tmp_path / "a.png", "--image", tmp_path / "b.png"), "-c", tmp_path, "?")
    assert "1 files, 2 images, " in both.stderr


def test_images_that_can_not_be_asked_about(folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    for image, content in (
        ("good.png", png()),
        ("bad.png", b"no"),
        ("large.png", png(640, 640)),
        ("wide.png", png(432, 432)),
    ):
        (tmp_path / image).write_bytes(content)
    for model, images, message in (
        (tiny_model, ["good.png"], "--image: tiny has no vision part"),
        (folder, ["good.png", "bad.png"], f"--image: {tmp_path / 'bad.png'}: not a readable image"),
        (folder, ["none.png"], f"--image: {tmp_path / 'none.png'}: {tmp_path / 'none.png'} is not a file"),
        (folder, [], "--context: name files to read, or images to look at with --image"),
        (folder, ["large.png"], "--image: images and videos take 1600 tokens or more; there is room for 1024"),
        (folder, ["wide.png"], " tokens are more than fit beside the answer in 1,024"),
    ):
        options = [option for image in images for option in ("--image", str(tmp_path / image))]
        result = run("ask", "-m", model, *options, "What?")
        assert isinstance(result.exception, InputError)
        assert message in str(result.exception)


def test_a_new_model_answers(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    assert run("new", "--preset", "tiny", tmp_path / "tiny").exit_code == 0
    result = run("ask", "-m", tmp_path / "tiny", "-n", "8", "-c", tmp_path / "a.txt", "What?")
    assert result.exit_code == 0
    assert "1 files, " in result.stderr
