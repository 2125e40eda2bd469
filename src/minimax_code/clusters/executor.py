"""Where errands are done: in this process, or elsewhere."""

from __future__ import annotations

from typing import Protocol

from minimax_code.clusters.errand import Errand, Outcome, Work, attempt


class Executor(Protocol):
    """A place where errands are done.

    Attributes:
        name: by which users choose it.
        goes_on: whether an errand goes on there when this process ends: running it again finds it by its id.
    """

    @property
    def name(self) -> str: ...

    @property
    def goes_on(self) -> bool: ...

    async def run(self, errand: Errand, work: Work) -> Outcome:
        """What came of it. Whatever goes wrong with the errand is its outcome.

        Raises:
            CodeError: no errand can be done there now.
        """
        ...

    async def close(self) -> None:
        """Lets go of what it holds."""
        ...


class LocalExecutor:
    """This process. Agents wait for their models most of the time, and what they run are processes of their own."""

    name, goes_on = "local", False

    async def run(self, errand: Errand, work: Work) -> Outcome:
        """As of `Executor`."""
        return await attempt(work, errand)

    async def close(self) -> None:
        """Nothing is held."""
