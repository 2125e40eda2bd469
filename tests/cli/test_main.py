"""The `openm3` command as users run it: pipes, signals, exit codes."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from helpers.command import openm3, openm3_process, start_openm3
from openm3 import hub
from openm3.config import ModelConfig


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "a.py").write_text("def answer():\n    return 42\n")
    (tmp_path / "b.bin").write_bytes(b"\0\1")
    (tmp_path / "c.txt").write_text("The sea is calm tonight.\n" * 3)
    return tmp_path


SHORT = ("--max-tokens", "8", "--dtype", "float32")


def test_ask_answers_on_stdout_and_tells_the_rest_on_stderr(tiny_model: Path, files: Path) -> None:
    done = openm3_process("ask", "-c", files, "What is the answer?", "-m", tiny_model, *SHORT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n")
    assert "/b.bin: binary" in done.stderr
    assert "2 files, " in done.stderr
    assert "tokens/s" in done.stderr
    assert "100% of blocks read (dense, " in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    again = openm3("ask", "-c", files, "What is the answer?", "-m", tiny_model, *SHORT)
    assert again.stdout == done.stdout


def test_ask_sparse_says_how_much_it_read(tiny_model: Path, files: Path) -> None:
    options = ("--attention", "sparse", "--blocks", "2", "--block-size", "16")
    done = openm3("ask", "-c", files, "What?", "-m", tiny_model, *SHORT, *options)
    assert done.returncode == 0, done.stderr
    assert "% of blocks read (sparse, " in done.stderr
    assert "100%" not in done.stderr


def test_ask_names_what_the_answer_was_read_from(tiny_model: Path, files: Path) -> None:
    (files / "d.txt").write_text("".join(f"number {i} is {i * i}\n" for i in range(12)))
    options = ("--evidence", "--block-size", "32", "--max-tokens", "24", "--dtype", "float32")
    done = openm3("ask", "-c", files, "What?", "-m", tiny_model, *options)
    assert done.returncode == 0, done.stderr
    references = re.findall(r"^\[(\d+)\] (.*) \(\d+%\)$", done.stderr, re.MULTILINE)
    assert [int(number) for number, _ in references] == list(range(1, len(references) + 1))
    assert references and all(re.search(r"(a\.py|c\.txt|d\.txt|prompt):\d+-\d+", name) for _, name in references)
    assert "[1]" not in done.stdout, "the answer alone is on the standard output"
    page = files / "page.html"
    done = openm3("ask", "-c", files / "d.txt", "What?", "-m", tiny_model, *options[1:], "--evidence-html", page)
    assert done.returncode == 0, done.stderr
    assert "number" in page.read_text() and "[1]" not in done.stderr
    done = openm3("ask", "-c", files, "What?", "-m", tiny_model, "--evidence-html", files / "none" / "page.html")
    assert done.returncode == 1 and "--evidence-html: there is no folder" in done.stderr


def test_a_window_past_the_trained_one_as_it_is_gets_a_warning(tiny_model: Path) -> None:
    options = ("generate", "hello", "-m", tiny_model, *SHORT, "--window", "1024", "--block-size", "16")
    done = openm3(*options, "--extend", "none")
    assert done.returncode == 0, done.stderr
    assert "trained for 512 tokens and can't read what lies further back" in done.stderr
    assert "--extend none; leave the option out" in done.stderr
    for extended in ((), ("--extend", "yarn"), ("--near", "64")):
        done = openm3(*options, *extended)
        assert done.returncode == 0, done.stderr
        assert "trained for" not in done.stderr
    done = openm3(*options, "--extend", "ntk", "--near", "64")
    assert done.returncode == 1
    assert "near_window: is for extend 'clamped', and here it is 'ntk'" in done.stderr


def test_ask_more_than_the_window(tiny_model: Path, files: Path) -> None:
    (files / "d.txt").write_text("x" * 900)
    done = openm3("ask", "-c", files, "What?", "-m", tiny_model, *SHORT)
    assert done.returncode == 1
    assert "more than fit beside the answer in the window of 512; name fewer files, let --fit" in done.stderr
    fitted = openm3("ask", "-c", files, "What?", "-m", tiny_model, *SHORT, "--fit")
    assert fitted.returncode == 0, fitted.stderr
    assert "left out to fit: " in fitted.stderr
    assert "d.txt" in fitted.stderr
    wide = openm3("ask", "-c", files, "What?", "-m", tiny_model, *SHORT, "--window", "2048")
    assert wide.returncode == 0, wide.stderr
    assert "was trained for 512 tokens; its answers get worse beyond" in wide.stderr


def test_ask_compacts_what_is_more_than_the_window(tiny_model: Path, files: Path) -> None:
    (files / "d.txt").write_text("".join(f"line {i}\n" for i in range(300)))
    options = ("--overflow", "compact", "--block-size", "16")
    done = openm3("ask", "-c", files, "What?", "-m", tiny_model, *SHORT, *options)
    assert done.returncode == 0, done.stderr
    assert "tokens to stay within the window: " in done.stderr
    assert "d.txt:1-" in done.stderr
    long = openm3("ask", "-c", files, "What? " * 80, "-m", tiny_model, *SHORT, *options)
    assert long.returncode == 1
    assert "error: prompt: nothing can be dropped: " in long.stderr


def test_ask_with_nothing_to_read(tiny_model: Path, tmp_path: Path) -> None:
    for path, message in ((tmp_path, "no text file in"), (tmp_path / "none", "does not exist")):
        done = openm3("ask", "-c", path, "What?", "-m", tiny_model)
        assert done.returncode == 1
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("args", [("--max-tokens", "0"), ("-t", "-1"), ("--blocks", "0"), ("--block-size", "5")])
def test_wrong_options_are_one_sentence(args: Sequence[str], tiny_model: Path) -> None:
    done = openm3("generate", "hello", "-m", tiny_model, *args)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("model", ["/nowhere/model.gguf", "no-such-name"])
def test_a_model_that_is_not_there(model: str) -> None:
    done = openm3("generate", "hello", "-m", model)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_generate_reads_stdin_and_prints_json(tiny_model: Path) -> None:
    done = openm3_process("generate", "--json", "-m", tiny_model, *SHORT, given="héllo")
    answer = json.loads(done.stdout)
    assert len(answer["token_ids"]) == answer["stats"]["num_generated"] <= 8
    assert answer["stats"]["num_prompt"] == len("héllo".encode())
    assert answer["finish_reason"] in ("length", "stop")
    plain = openm3("generate", "-m", tiny_model, *SHORT, given="héllo")
    assert plain.stdout == answer["text"] + "\n"


def test_generate_by_a_schema_a_regex_and_a_grammar(tiny_model: Path, tmp_path: Path) -> None:
    schema, grammar = tmp_path / "schema.json", tmp_path / "grammar.lark"
    schema.write_text('{"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2}')
    grammar.write_text('start: "left" | "right"')
    plain = ("generate", "hello", "-m", tiny_model, "-t", "1", "-n", "200")
    assert [type(one) for one in json.loads(openm3(*plain, "--json-schema", schema).stdout)] == [bool, bool]
    assert openm3(*plain, "--regex", "yes|no").stdout in ("yes\n", "no\n")
    assert openm3(*plain, "--grammar", grammar).stdout in ("left\n", "right\n")
    schema.write_text('{"type": "strin"}')
    for options, message in (
        (["--regex", "("], "error: --regex: regex: "),
        (["--json-schema", schema], "error: --json-schema: json_schema: Invalid type: strin"),
        (["--json-schema", grammar], f"error: --json-schema: {grammar} is not JSON"),
        (["--regex", "a", "--json-object"], "error: --regex: can't go with --json-object; give one of them"),
    ):
        done = openm3(*plain, *options)
        assert done.returncode == 1
        assert done.stderr.startswith(message)


def test_generate_refuses_other_encodings(tiny_model: Path) -> None:
    done = openm3_process("generate", "-m", tiny_model, given=b"caf\xe9")
    assert done.returncode == 1
    assert done.stderr == "error: prompt: the standard input is not UTF-8 (byte 3)\n"


def test_chat_from_a_pipe(tiny_model: Path) -> None:
    done = openm3_process("chat", "-m", tiny_model, *SHORT, "-t", "0", given="hi\n/reset\nhi\n/help\n/exit\nunread\n")
    assert done.returncode == 0, done.stderr
    assert "forgotten" in done.stderr
    assert "Ctrl-D ends" in done.stderr
    half = len(done.stdout) // 2
    assert done.stdout[:half] == done.stdout[half:], "after /reset the same line gets the same answer"


def test_chat_says_when_the_window_is_full(tiny_model: Path) -> None:
    done = openm3("chat", "-m", tiny_model, *SHORT, given="x" * 600 + "\nhi\n")
    assert done.returncode == 0, done.stderr
    assert "the window is 512 tokens and the answer needs at least one; /reset starts anew" in done.stderr
    assert done.stdout, "the next line is answered"


def test_ctrl_c_ends_a_generation_cleanly(default_model_path: Path) -> None:
    process = start_openm3("generate", "Once upon a time", "-m", default_model_path, "-n", "4000")
    assert process.stdout is not None
    assert process.stdout.read(20), "it answers"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in errors


def test_ctrl_c_in_chat_stops_the_answer_and_not_the_program(default_model_path: Path) -> None:
    process = start_openm3("chat", "-m", default_model_path, "-n", "150", "-t", "0")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"Tell me a very long story.\n")
    process.stdin.flush()
    assert process.stdout.read(20), "it answers"
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(b"What is the capital of France?\n", timeout=120)
    assert process.returncode == 0, errors
    assert b"Paris" in rest.splitlines()[-1], "the next line is answered"


def test_a_closed_pipe_ends_it_without_a_traceback(default_model_path: Path) -> None:
    process = start_openm3("generate", "Once upon a time", "-m", default_model_path, "-n", "300", "-t", "1")
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(5)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.parametrize("command", ["ask", "chat", "generate", "batch", "serve", "pull", "models", "doctor", "tune"])
def test_help_teaches_by_example(command: str) -> None:
    done = openm3(command, "--help")
    assert done.returncode == 0
    assert f"openm3 {command}" in done.stdout
    assert len(done.stdout.splitlines()) > 7


def test_the_default_model_is_what_it_says(default_model_path: Path) -> None:
    assert hub.find("default") == default_model_path
    from openm3.model.weights import open_checkpoint

    config = open_checkpoint(default_model_path).config
    assert isinstance(config, ModelConfig)
    assert (config.num_hidden_layers, config.hidden_size, config.max_position_embeddings) == (30, 576, 8192)
