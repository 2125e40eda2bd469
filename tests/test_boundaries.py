"""The boundaries of ARCHITECTURE.md: imports, what importing does, file sizes, the README's map."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
PACKAGES = ("openm3", "minimax", "minimax_code")
MODULES = sorted(SRC.rglob("*.py"))

# A layer may import itself and the layers below it; the top one is first.
Layers = tuple[tuple[str, ...], ...]
LAYERS: Layers = (
    ("openm3.cli",),
    ("openm3.server",),
    ("openm3.train",),
    ("openm3.context.manager",),
    ("openm3.context.retrieval",),
    ("openm3.engine",),
    ("openm3.model",),
    ("openm3.integrations",),
    ("openm3.functional",),
    ("openm3.kernels",),
    ("openm3.context", "openm3.text", "openm3.hub"),
    ("openm3.config",),
    ("openm3.errors",),
)
CODE_LAYERS: Layers = (
    ("minimax_code.cli",),
    ("minimax_code.editor",),
    ("minimax_code.clusters",),
    ("minimax_code.client",),
    ("minimax_code.project",),
    ("minimax_code.merge", "minimax_code.phase"),
    ("minimax_code.review",),
    ("minimax_code.jobs",),
    ("minimax_code.work",),
    ("minimax_code.agent",),
    ("minimax_code.tools",),
    ("minimax_code.remote",),
    ("minimax_code.context", "minimax_code.phrases", "minimax_code.stuck", "minimax_code.permissions"),
    ("minimax_code.transcript",),
    ("minimax_code.skills", "minimax_code.testing"),
    ("minimax_code.store",),
    ("minimax_code.events", "minimax_code.budget"),
    ("minimax_code.model", "minimax_code.contract"),
    ("minimax_code.workbench",),
    ("minimax_code.join_ray",),
    ("minimax_code.record", "minimax_code.errors", "minimax_code.loop"),
)
# They know no HTTP client, so that the server can use them too.
SHARED_WITH_SERVER = (
    "minimax_code.workbench",
    "minimax_code.skills",
    "minimax_code.model",
    "minimax_code.join_ray",
    "minimax_code.errors",
)
# Modules that must not bring torch, not even through others.
WITHOUT_TORCH = (
    "openm3",
    "openm3.hub",
    "openm3.config",
    "openm3.context.files",
    "openm3.text.tokenizer",
    "openm3.engine.pages",
    "openm3.engine.request",
    "openm3.engine.scheduler",
    "openm3.cli.main",
    "minimax",
    "minimax_code",
)


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")


INITS = [name_of(path) for path in MODULES if path.name == "__init__.py"]


def imports(path: Path) -> set[str]:
    """Modules of ours that a file imports, those of type checking apart."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name for name in found if name.split(".")[0] in PACKAGES}


def layer(module: str, layers: Layers = LAYERS) -> int | None:
    for level, prefixes in enumerate(layers):
        if any(module == prefix or module.startswith(f"{prefix}.") for prefix in prefixes):
            return level
    return None


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_downwards(path: Path) -> None:
    module, package = name_of(path), name_of(path).split(".")[0]
    for imported in imports(path):
        target = imported.split(".")[0]
        if package == target:
            check_layers(module, imported, CODE_LAYERS if package == "minimax_code" else LAYERS)
        elif package == "minimax":
            raise AssertionError(f"{module} imports {imported}: the SDK speaks HTTP")
        elif package == "openm3":
            assert module.startswith("openm3.server."), f"{module} imports {imported}"
            assert is_in(imported, SHARED_WITH_SERVER), f"{module} imports {imported}, which may speak HTTP"
        else:
            assert target == "minimax", f"{module} imports {imported}"
            assert not is_in(module, SHARED_WITH_SERVER), f"{module} imports {imported}: it knows no HTTP client"


def is_in(module: str, packages: Sequence[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def check_layers(module: str, imported: str, layers: Layers) -> None:
    own, other = layer(module, layers), layer(imported, layers)
    if own is not None and other is not None:
        assert other >= own, f"{module} imports {imported}, which is above it"
        if other == own:
            same = any(module.startswith(prefix) and imported.startswith(prefix) for prefix in layers[own])
            assert same, f"{module} imports its neighbour {imported}"


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_works_without_torch(module: str) -> None:
    script = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_agents_need_no_extra() -> None:
    """`pip install openm3` is all that the worker of a job and the command line import."""
    modules = ", ".join(
        ["minimax_code.jobs.process", *filter(re.compile("minimax_code.cli").match, map(name_of, MODULES))]
    )
    script = f"import sys; before = {{*sys.modules}}; import {modules}; print(*{{*sys.modules}} - before)"
    listed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    core = _with_what_it_requires(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    distributions = metadata.packages_distributions()
    for module in sorted({name.split(".")[0] for name in listed} - {*PACKAGES}):
        owners = {canonicalize_name(owner) for owner in distributions.get(module, ())}
        assert not owners or owners & core, f"{module} is imported, and only an extra brings it"


def _with_what_it_requires(requirements: Sequence[str]) -> set[str]:
    found: set[str] = set()
    waiting = [Requirement(each) for each in requirements]
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        if name not in found and (one.marker is None or one.marker.evaluate({"extra": ""})):
            found.add(name)
            waiting += [Requirement(each) for each in metadata.requires(name) or ()]
    return found


@pytest.mark.parametrize("name", ["openm3", "minimax-code"])
def test_help_waits_for_no_library(name: str) -> None:
    """Somebody who asks for help waits for the interpreter and click: each of these takes longer than both."""
    module, _, function = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"][name].partition(
        ":"
    )
    script = f"""
import contextlib, sys, {module}
sys.argv[1:] = ["--help"]
with contextlib.suppress(SystemExit):
    {module}.{function}()
print({{"torch", "numpy", "openai", "pydantic", "sqlalchemy", "fastapi", "transformers"}} & {{*sys.modules}})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "Commands:" in done.stdout
    assert done.stdout.endswith("\nset()\n")


PROBE = """
import builtins, os, pathlib, socket, sys, threading
import openai, torch  # what they do is theirs

def refuse(*args, **kwargs): raise AssertionError(f"importing it did something: {args}")
before = set(threading.enumerate())
socket.socket.connect = os.mkdir = os.makedirs = pathlib.Path.mkdir = refuse
for module in sys.argv[1:]:
    if not (child := os.fork()):
        said = os.open(pathlib.Path.home() / module, os.O_WRONLY | os.O_CREAT)
        os.dup2(said, 1), os.dup2(said, 2)
        __import__(module)
        assert set(threading.enumerate()) == before, "a thread"
        sys.stdout.flush()
        os._exit(0)  # torch takes longer to leave than all of ours to import
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which each package was imported, by a process of its own that has torch already; what they said."""
    home = tmp_path_factory.mktemp("home")
    environment = {**os.environ, "HOME": str(home), "OPENM3_HOME": str(home / "cache")}
    subprocess.run([sys.executable, "-c", PROBE, *INITS], env=environment, check=True)
    return home


@pytest.mark.parametrize("module", INITS)
def test_importing_does_nothing(module: str, imported: Path) -> None:
    """No print, no environment read by us, no file, no thread, no socket."""
    assert (imported / module).read_text() == ""
    assert {path.name for path in imported.iterdir()} == {*INITS}


@pytest.mark.parametrize("path", [*MODULES, *sorted((ROOT / "tests").rglob("*.py"))], ids=lambda p: p.stem)
def test_files_are_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def tracked_files() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    return [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


def test_the_readme_maps_the_disk() -> None:
    """Each line of the map is a file or folder, and each source file and top-level entry has a line."""
    block = re.search(r"## Map\n.*?```text\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block, "README.md has no map"
    mapped: set[str] = set()
    parents: list[str] = []
    for line in block[1].splitlines():
        indent, entry = re.match(r"( *)(\S+)", line).groups()  # type: ignore[union-attr]
        del parents[len(indent) // 2 :]
        mapped.add("".join([*parents, entry]))
        parents.append(entry)
    files = tracked_files()
    on_disk = {name for name in files if name.startswith("src/") and name.endswith((".py", ".cpp", ".h"))}
    on_disk = {name for name in on_disk if not name.endswith("__init__.py")}
    tops = {name.split("/")[0] + ("/" if "/" in name else "") for name in files}
    assert {entry for entry in mapped if not entry.endswith("/") and entry.startswith("src/")} == on_disk
    assert {entry for entry in mapped if "/" not in entry.rstrip("/")} == tops
    for entry in mapped:
        assert (ROOT / entry).exists(), f"README.md maps {entry}, which is not there"


def test_every_link_in_the_docs_leads_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
