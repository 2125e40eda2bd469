"""ruff, bandit and mypy, where they are installed, and whether files parse.

They read files and run none of them, and what a file of settings among them says is not followed.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from minimax_code.workbench.files import CodeFile
from minimax_code.workbench.findings import Edit, Findings, Issue, Severity, in_order
from minimax_code.workbench.receipt import Receipt
from minimax_code.workbench.run import Programs, Ran, Runner

STANDARDS = ("pep8", "security", "performance", "documentation", "types")
"""What code can be held to, beside being correct."""

DEFAULT_STANDARDS = ("pep8", "security", "performance", "types")
ALIASES = {
    "security_best_practices": "security",
    "performance_guidelines": "performance",
    "documentation_requirements": "documentation",
}

_ALWAYS = ("F", "B", "E9", "PLE")
_RUFF_RULES = {"pep8": ("E", "W", "N"), "security": ("S",), "performance": ("PERF", "C4"), "documentation": ("D",)}
# What is a matter of opinion: it does as its author means.
_OPINIONS = (
    "F403",
    "F405",
    "B007",
    "B009",
    "B010",
    "B011",
    "B013",
    "B014",
    "B017",
    "B019",
    "B024",
    "B027",
    "B028",
    "B9",
)
# Of mypy, what fails at no time: what would be annotated otherwise.
_ANNOTATION = ("var-annotated", "type-arg", "valid-type", "override", "import", "no-redef")
_HIGH = ("PLE0", "PLE1", "E9", "F82", "F7", "invalid-syntax")
_MEDIUM = ("F", "B", "S", "PLE")
_RUFF = ["check", "--isolated", "--no-cache", "--no-respect-gitignore", "--output-format=json", "--line-length=99",
         "--config=lint.pydocstyle.convention='google'"]  # fmt: skip
_MYPY = ["--config-file=", "--no-incremental", "--cache-dir=/dev/null", "--ignore-missing-imports",
         "--no-site-packages", "--follow-imports=silent", "--explicit-package-bases", "--no-error-summary",
         "--no-color-output", "--output=json"]  # fmt: skip

_PARSED = {".py": "python", ".pyi": "python", ".json": "json", ".toml": "toml"}
# A program of its own: a file that is nested deeply enough ends the interpreter that parses it.
_PARSE = """
import ast, json, pathlib, tomllib, warnings
warnings.simplefilter("ignore")
parsers = {"python": ast.parse, "json": json.loads, "toml": tomllib.loads}
for kind, path in zip(sys.argv[1::2], sys.argv[2::2]):
    print(json.dumps({"file": path}), flush=True)
    try:
        parsers[kind](pathlib.Path(path).read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        told = {"line": getattr(error, "lineno", None) or 1, "message": getattr(error, "msg", None) or str(error)}
        print(json.dumps({"file": path, **told}), flush=True)
print(json.dumps({"file": None}))
"""

_Read = Callable[[bytes, Path], Iterator[Issue]]


class Analysers:
    """Analyses Python files, one call after another's.

    Args:
        programs: what runs the tools; with limits alone where None, which is for `analyse` and `parse`: their files lie
            alone in a folder.
    """

    def __init__(self, programs: Programs | None = None) -> None:
        self._programs = programs or Runner()

    async def parse(self, files: Sequence[CodeFile]) -> Findings:
        """Whether files parse: Python, JSON and TOML."""
        with tempfile.TemporaryDirectory(prefix="openm3-code-") as name:
            return await self._parse(Path(name), _lay(Path(name), files))

    async def analyse(self, files: Sequence[CodeFile], standards: Iterable[str]) -> Findings:
        """What is wrong with files, by standards of `STANDARDS`. Of other languages than Python, whether they parse."""
        with tempfile.TemporaryDirectory(prefix="openm3-code-") as name:
            return await self.analyse_in(Path(name), _lay(Path(name), files), standards)

    async def analyse_in(self, folder: Path, files: Sequence[CodeFile], standards: Iterable[str]) -> Findings:
        """What is wrong with these files of a folder; of the others there, the types are known and nothing is said."""
        standards = set(standards)
        parsed = await self._parse(folder, files)
        sources = [f"./{file.path}" for file in files if Path(file.path).suffix in (".py", ".pyi")]
        whole = [path for path in sources if path[2:] not in parsed.broken]
        issues, receipts = [*parsed.issues], [*parsed.receipts]
        for tool, args, read in _tools(standards) if whole else ():
            paths = _without_stubbed(whole) if tool == "mypy" else whole
            found, receipt = await self._tool(folder, tool, args, paths, read)
            issues += found
            receipts.append(receipt)
        return Findings(
            issues=in_order(issues), receipts=tuple(receipts), num_lines=parsed.num_lines, broken=parsed.broken
        )

    async def _parse(self, folder: Path, files: Sequence[CodeFile]) -> Findings:
        known = [file for file in files if Path(file.path).suffix in _PARSED]
        others = len(files) - len(known)
        unread = f"; {others} of other kinds were not read" if others else ""
        command = ("python", "ast.parse", "json.loads", "tomllib.loads")
        if not known:
            receipt = Receipt(command=command, exit_code=None, checked=f"nothing{unread}; nothing was run")
            return Findings(issues=(), receipts=(receipt,), num_lines=0)
        args = [word for file in known for word in (_PARSED[Path(file.path).suffix], f"./{file.path}")]
        ran = await self._programs.script(folder, _PARSE, args)
        said = [json.loads(line) for line in ran.output.splitlines()]
        wrong = [one for one in said if "message" in one]
        if ran.exit_code != 0 and said and "message" not in said[-1]:  # it ended the interpreter
            wrong.append({"file": said[-1]["file"], "line": 1, "message": "can't be parsed: it is nested too deeply"})
        issues = [
            Issue(severity="high", file=one["file"][2:], line=one["line"], message=str(one["message"]),
                  suggestion=None, rule="parse:syntax-error")
            for one in wrong
        ]  # fmt: skip
        lines = sum(bool(line.strip()) for file in known for line in file.content.splitlines())
        checked = f"whether {len(known)} files parse{unread}; nothing of them was run"
        receipt = self._receipt(command, ran, checked)
        return Findings(
            issues=tuple(issues),
            receipts=(receipt,),
            num_lines=lines,
            broken=frozenset(issue.file for issue in issues),
        )

    async def _tool(
        self, folder: Path, tool: str, args: Sequence[str], paths: Sequence[str], read: _Read
    ) -> tuple[list[Issue], Receipt]:
        command = (tool, *args, *paths)
        if not _is_there(tool):
            told = f"nothing: {tool} is not installed; pip install 'openm3[code]' brings it"
            return [], Receipt(command=command, exit_code=None, checked=told)
        env = {"MYPYPATH": "src"} if (folder / "src").is_dir() else {}
        ran: Ran = await self._programs.module(folder, tool, [*args, *paths], env)
        if ran.exit_code not in (0, 1):  # 1: it has found something
            told = "nothing: it failed" if ran.exit_code is not None else "nothing: it took too long or said too much"
            return [], self._receipt(command, ran, told)
        try:
            issues = list(read(ran.output, folder))
        except (ValueError, KeyError, TypeError):
            return [], self._receipt(command, ran, "nothing: its output can't be read")
        checked = f"{len(paths)} Python files, {len(issues)} issues; nothing of them was run"
        return issues, self._receipt(command, ran, checked)

    def _receipt(self, command: tuple[str, ...], ran: Ran, checked: str) -> Receipt:
        return Receipt(command=command, exit_code=ran.exit_code, sandbox=self._programs.sandbox, checked=checked)


def _tools(standards: Set[str]) -> Iterator[tuple[str, Sequence[str], _Read]]:
    """What is run for standards, how, and what reads its output."""
    has_bandit = _is_there("bandit")
    rules = [*_ALWAYS, *(rule for one in sorted(standards & set(_RUFF_RULES)) for rule in _RUFF_RULES[one])]
    if has_bandit and "S" in rules:
        rules.remove("S")  # bandit's rules, in ruff
    yield "ruff", [*_RUFF, f"--select={','.join(rules)}"], _ruff_issues
    if "security" in standards and has_bandit:
        yield "bandit", ["-q", "-f", "json"], _bandit_issues
    if "types" in standards:
        yield "mypy", _MYPY, _mypy_issues


def _lay(folder: Path, files: Sequence[CodeFile]) -> Sequence[CodeFile]:
    """Writes files, whose paths were checked, into a folder."""
    for file in files:
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.content, encoding="utf-8", errors="replace", newline="")
    return files


def _is_there(tool: str) -> bool:
    return importlib.util.find_spec(tool) is not None


def _without_stubbed(paths: Sequence[str]) -> list[str]:
    """Without sources that have a stub beside them: mypy takes both for one module, and reads neither."""
    stubs = {path.removesuffix("i") for path in paths if path.endswith(".pyi")}
    return [path for path in paths if path not in stubs]


def _name(path: str, folder: Path) -> str:
    """The path that the user knows a file by."""
    inside = Path(path)
    return str(inside.relative_to(folder.resolve()) if inside.is_absolute() else inside)


def _ruff_issues(output: bytes, folder: Path) -> Iterator[Issue]:
    for one in json.loads(output):
        code = str(one["code"] or "invalid-syntax")
        file = _name(one["filename"], folder)
        is_opinion = code.startswith(_OPINIONS) or (code == "F401" and Path(file).name == "__init__.py")
        is_likely = code.startswith(_MEDIUM) and not is_opinion
        severity: Severity = "high" if code.startswith(_HIGH) else "medium" if is_likely else "low"
        yield Issue(
            severity=severity,
            file=file,
            line=one["location"]["row"],
            message=one["message"],
            suggestion=(one.get("fix") or {}).get("message"),
            rule=f"ruff:{code}",
            edit=_edit(one.get("fix") or {}),
        )


def _edit(fix: Mapping[str, Any]) -> Edit | None:
    """ruff's fix, where it is safe by its own account and all of it is one edit."""
    if fix.get("applicability") != "safe" or len(fix["edits"]) != 1:
        return None
    [edit] = fix["edits"]
    begin, end = edit["location"], edit["end_location"]
    return Edit(
        row=begin["row"], column=begin["column"], end_row=end["row"], end_column=end["column"], content=edit["content"]
    )


def _bandit_issues(output: bytes, folder: Path) -> Iterator[Issue]:
    for one in json.loads(output)["results"]:
        yield Issue(
            severity=one["issue_severity"].lower() if one["issue_severity"] in ("HIGH", "MEDIUM") else "low",
            file=_name(one["filename"], folder),
            line=one["line_number"],
            message=one["issue_text"],
            suggestion=f"see {one['more_info']}",
            rule=f"bandit:{one['test_id']}",
        )


def _mypy_issues(output: bytes, folder: Path) -> Iterator[Issue]:
    for line in output.splitlines():
        one = json.loads(line)
        if one["severity"] == "error":
            code = one["code"] or "error"
            yield Issue(
                severity="low" if code.startswith(_ANNOTATION) else "medium",
                file=_name(one["file"], folder),
                line=max(one["line"], 1),
                message=one["message"],
                suggestion=one.get("hint"),
                rule=f"mypy:{code}",
            )
