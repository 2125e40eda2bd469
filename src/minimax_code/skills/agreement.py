"""Tells answers apart by what they do: inputs on which they differ, groups that behave alike, a judge between two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minimax_code.model import Model, Usage
from minimax_code.skills.candidates import Agreement, Candidate
from minimax_code.skills.checks import Examiner, defined_in, file_with
from minimax_code.skills.judge import prefer
from minimax_code.workbench.behaviour import alike, behave, inputs_for
from minimax_code.workbench.bench import Workbench
from minimax_code.workbench.examples import Example
from minimax_code.workbench.files import CodeFile
from minimax_code.workbench.testrun import is_test

_MAX_FUNCTIONS = 4


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Compares answers by the functions of Python that all of them define.

    Args:
        task: what was asked, for the judge.
        examples: calls whose arguments are known to be right.
        judge: who is asked between two groups; None: nobody.
    """

    bench: Workbench
    examiner: Examiner
    task: str
    examples: tuple[Example, ...] = ()
    judge: Model | None = None

    async def __call__(self, candidates: Sequence[Candidate]) -> Agreement:
        """Which of the candidates behave alike.

        Raises:
            SandboxError: nothing can be run.
        """
        calls = self._calls([candidate.files for candidate in candidates])
        groups: dict[tuple[str, ...], list[Candidate]] = {}
        for candidate in candidates:
            outcomes = await self._outcomes(candidate.files, calls)
            fails = not outcomes or all(outcome.startswith(("raises", "takes ", "not ")) for outcome in outcomes)
            key = (f"candidate {candidate.number}",) if fails else outcomes  # failing alike is no agreement
            groups.setdefault(key, []).append(candidate)
        ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
        found = Agreement(groups=tuple(tuple(group) for _, group in ordered))
        if len(ordered) < 2 or not len(ordered[0][0]) == len(ordered[1][0]) == len(calls):
            return found
        return await self._between(found, [key for key, _ in ordered[:2]], calls)

    def _calls(self, answers: Sequence[Sequence[CodeFile]]) -> list[Example]:
        first, *others = answers
        functions = list(dict.fromkeys(example.function for example in self.examples)) or [
            name for file in first if not is_test(file.path) for name in defined_in(file) if not name.startswith("_")
        ]
        shared = [name for name in functions if all(file_with(name, files) for files in others)]
        sources = {file.path: file.content for file in first}
        return [
            call
            for name in shared[:_MAX_FUNCTIONS]
            if (path := file_with(name, first))
            for call in inputs_for(sources[path], name, self.examples)
        ]

    async def _outcomes(self, files: Sequence[CodeFile], calls: Sequence[Example]) -> tuple[str, ...]:
        await self.examiner.keep(files)
        outcomes: list[str] = []
        for name in dict.fromkeys(call.function for call in calls):
            of_name = [call for call in calls if call.function == name]
            path = file_with(name, files)
            assert path is not None, "only functions that all answers define are called"
            ran = await behave(self.bench.sandbox, self.bench.workspace.path, path, of_name, python=self.bench.python)
            outcomes += map(alike, ran.outcomes)
        return tuple(outcomes)

    async def _between(
        self, found: Agreement, outcomes: Sequence[tuple[str, ...]], calls: Sequence[Example]
    ) -> Agreement:
        """With the first call on which the two largest groups differ, and what the judge says to it."""
        call, a, b = next(
            (call.call, a, b) for call, a, b in zip(calls, outcomes[0], outcomes[1], strict=True) if a != b
        )
        preferred, usage = (await prefer(self.judge, self.task, call, a, b)) if self.judge else (None, Usage())
        return Agreement(
            groups=found.groups,
            apart=f"{call} tells them apart: {a}, or {b}",
            preferred={"a": 0, "b": 1, None: None}[preferred],
            usage=usage,
        )
