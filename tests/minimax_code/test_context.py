"""What a model reads fits its window, and what must not be forgotten stands in it word for word."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from helpers.agents import ByTurn, bench_of, call, events, run
from minimax_code.context import Window, clip, shorten
from minimax_code.events import AgentStarted, Compacted, MemoryLog, ModelReplied, Recorded, Told, ToolEnded
from minimax_code.model import Abilities, Reply, Request, Usage
from minimax_code.testing import ScriptedModel
from minimax_code.transcript import Transcript

RULE = "Never touch migrations/, whatever happens."
PLAN = call("plan", steps=[{"text": "read all", "state": "doing"}], notes=["the limit is 40 not 50"])


class Reader:
    """A model that reads one file after the other, and counts as its server would."""

    name = "reader"

    def __init__(self, num_files: int, *, window: int, summary: str = "Read some files.") -> None:
        self._num, self._window, self._summary, self.step = num_files, window, summary, 0
        self.requests: list[Request] = []

    async def abilities(self) -> Abilities:
        return Abilities(context_tokens=self._window, calls_tools=True)

    async def reply(self, request: Request) -> Reply:
        length = sum(len(one.content) + sum(len(c.arguments) for c in one.calls) for one in request.messages)
        tokens = (length + len(str(request.tools))) // 4
        assert tokens + request.max_tokens <= self._window, "the server would refuse it"
        usage = Usage(prompt_tokens=tokens, completion_tokens=20)
        if not request.tools:
            return Reply(content=self._summary, usage=usage)
        self.requests.append(request)
        self.step += 1
        if self.step > self._num + 1:
            return Reply(content="Read all.", usage=usage)
        made = PLAN if self.step == 1 else call("read", path=f"{self.step - 2}.txt")
        return Reply(calls=(made,), finish_reason="tool_calls", usage=usage)


def files(num: int) -> dict[str, str]:
    return {f"{i}.txt": f"file {i} " + "word " * 400 for i in range(num)}


def test_a_long_work_fits_a_small_window_and_forgets_no_rule(tmp_path: Path) -> None:
    model = Reader(40, window=6000)
    stopped, log = run(bench_of(tmp_path, files(40)), model, system="Be good.", instructions=RULE, patience=100)
    assert stopped.message == "Read all."
    compacted = events(log, Compacted)
    assert sum(one.dropped > 0 for one in compacted) >= 2
    last = model.requests[-1].messages
    assert [message.role for message in last[:2]] == ["system", "user"]
    assert last[0].content == "Be good."
    told = last[1].content
    assert told.startswith(f"# What you were told\n\n{RULE}\n\n# Your plan\n\n- [doing] read all")
    assert "- the limit is 40 not 50" in told
    assert told.endswith("# So far\n\nRead some files.")
    for request in model.requests:  # no call without its result, no result without its call
        calls = [one.id for message in request.messages for one in message.calls]
        assert [message.call_id for message in request.messages if message.role == "tool"] == calls
        assert any(RULE in message.content for message in request.messages)


def test_prompts_only_grow_at_their_end_but_where_they_are_shortened(tmp_path: Path) -> None:
    model = Reader(40, window=6000)
    _, log = run(bench_of(tmp_path, files(40)), model, instructions=RULE, patience=100)
    pairs = zip(model.requests, model.requests[1:], strict=False)
    changed = [i for i, (one, next_) in enumerate(pairs) if next_.messages[: len(one.messages)] != one.messages]
    assert len(changed) == len(events(log, Compacted)) < len(model.requests) / 3


def test_a_summary_that_is_of_no_use_gives_way_to_the_list_of_what_was_done(tmp_path: Path) -> None:
    model = Reader(40, window=6000, summary=" ")
    run(bench_of(tmp_path, files(40)), model, instructions=RULE, patience=100)
    told = model.requests[-1].messages[1].content
    assert '- you called read {"path": "2.txt"}' in told.split("# So far")[1]


def test_a_job_that_goes_on_reads_what_it_would_have_read(tmp_path: Path) -> None:
    model = Reader(30, window=6000)
    _, log = run(bench_of(tmp_path, files(30)), model, instructions=RULE, patience=100)
    replies = [i for i, one in enumerate(log.recorded) if isinstance(one.event, ModelReplied)]
    half = MemoryLog()
    half._recorded = list(log.recorded[: replies[20]])  # up to where it asked for the 21st time
    again = Reader(30, window=6000)
    again.step = 20
    run(bench_of(tmp_path / "again", files(30)), again, log=half, instructions=RULE, patience=100)
    assert again.requests[0].messages == model.requests[20].messages


def test_no_output_fills_the_window(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, {"big.txt": "x" * 80 + "\n" + "y" * 200_000, "many.txt": "line\n" * 50_000})
    script = [call("bash", command="cat many.txt"), call("read", path="big.txt"), "Big."]
    stopped, log = run(bench, ScriptedModel(script, abilities=Abilities(context_tokens=8000, calls_tools=True)))
    assert stopped.message == "Big."
    assert all(len(one.output) < 5100 for one in events(log, ToolEnded))
    assert "characters left out]" in events(log, ToolEnded)[0].output


def test_files_that_were_written_are_cut_in_what_is_read_again(tmp_path: Path) -> None:
    written = [call("write", path=f"{i}.py", content=f"x = '{'a' * 3000}'\n") for i in range(20)]
    model = ByTurn([*written, "Done."], window=12_000)
    _, log = run(bench_of(tmp_path), model)
    assert events(log, Compacted)
    read = [one for request in model.requests for message in request.messages for one in message.calls]
    cut = [json.loads(one.arguments) for one in read if len(one.arguments) < 1000]
    assert cut and all("characters left out" in one["content"] and one["path"] for one in cut)


def test_what_can_be_kept_is_kept_when_nothing_more_can_go() -> None:
    log = [
        AgentStarted(agent="a", model="m", system="s" * 3000),
        Told(agent="a", text="t" * 3000),
        ModelReplied(agent="a", reply=Reply(calls=(call("read", path="x"),))),
        ToolEnded(agent="a", call_id="c", output="o" * 30_000, failed=False, tree="t", seconds=0.0),
    ]
    transcript = Transcript("a")
    transcript.read([Recorded(seq=i + 1, at=datetime.now(UTC), event=event) for i, event in enumerate(log)])
    shorter = shorten(transcript, (), Window(4000))
    assert shorter is not None and (shorter.trimmed, shorter.dropped) == (4, 0)


def test_a_clipped_text_says_how_much_is_missing() -> None:
    assert clip("short", 10) == "short"
    assert clip("a" * 600 + "b" * 600, 300) == "a" * 200 + "\n[900 characters left out]\n" + "b" * 100
