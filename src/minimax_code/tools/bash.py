"""bash: a command in the sandbox."""

from __future__ import annotations

from pydantic import Field

from minimax_code.permissions import Reach
from minimax_code.tools.tool import Arguments, Output, Place, Typed
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.receipt import Receipt
from minimax_code.workbench.sandbox import Limits


class BashArguments(Arguments):
    command: str = Field(min_length=1, description="run by bash in the folder; there is no network")
    seconds: int = Field(default=120, ge=1, le=3600, description="until it is ended")


class Bash(Typed[BashArguments]):
    """Runs a command on the agent's files, in the sandbox.

    Args:
        writable: whether it may change them.
    """

    name = "bash"
    description = "Runs a command in your folder and returns its output. Nothing goes on running after it."
    takes = BashArguments

    def __init__(self, *, writable: bool = True) -> None:
        self._writable = writable
        self.reach: Reach = "files" if writable else "nothing"

    def _subject(self, arguments: BashArguments, bench: Workbench) -> str:
        return arguments.command

    async def _call(self, arguments: BashArguments, place: Place) -> Output:
        ran = await place.bench.sandbox.run(
            ("bash", "-c", arguments.command),
            folder=place.bench.workspace.path,
            writable=self._writable,
            env=place.bench.variables,
            limits=Limits(seconds=float(arguments.seconds)),
        )
        receipt = Receipt(
            command=(arguments.command,), tree=place.tree, exit_code=ran.exit_code, seconds=ran.seconds,
            sandbox=ran.sandbox, checked="whatever the agent wanted to know",
        )  # fmt: skip
        end = f"[ended: too much of its {ran.stopped}]" if ran.stopped else f"[exit code {ran.exit_code}]"
        text = ran.output if ran.exit_code == 0 else f"{ran.output.rstrip()}\n{end}".lstrip()
        return Output(text or "[no output]", failed=ran.exit_code != 0, receipt=receipt)
