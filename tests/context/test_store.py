"""The file of a context: every byte is covered, and what has a name is whole."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from openm3.context.store import ALIGNMENT, About, Section, Store, StoredFile, digest
from openm3.errors import InputError, StoreError

TEXT = b"def answer():\n    return 42\n"
ABOUT = About(
    model="tiny",
    identity={"model": "0123", "dtype": "bfloat16"},
    options={"window": 4096},
    num_tokens=4,
    created="2026-11-25T00:00:00+00:00",
    files=(StoredFile("a.py", "/somewhere/a.py", digest(TEXT), len(TEXT), 3, 9),),
)
PAGES = bytes(range(256)) * 1000


def sections() -> list[Section]:
    tokens = b"".join(token.to_bytes(8, "little") for token in (5, 6, 7, 8))
    pieces = [memoryview(PAGES[:1000]), memoryview(PAGES[1000:])]
    return [("text", [memoryview(TEXT)]), ("tokens", [memoryview(tokens)]), ("0.k", pieces), ("empty", [])]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "contexts")
    store.save("one", ABOUT, sections(), lambda done: None)
    return store


def test_what_is_saved_is_found(store: Store) -> None:
    with store.open("one") as context:
        context.verify(2)
        assert context.about == ABOUT
        assert context.tokens() == [5, 6, 7, 8]
        assert context.section("0.k") == PAGES
        part = bytearray(500)
        context.read_into(memoryview(part), context.place("0.k")[0] + 1000)
        assert part == PAGES[1000:1500]
        assert all(context.place(name)[0] % ALIGNMENT == 0 for name in ("text", "tokens", "0.k", "empty"))
        [file] = context.collection().files
        assert (file.path, file.absolute, file.text) == ("a.py", Path("/somewhere/a.py"), TEXT.decode())
        with pytest.raises(StoreError, match=r"has no 1\.k"):
            context.section("1.k")
    assert store.names() == ["one"] and store.has("one")


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "/etc/passwd", ".hidden", "a\0b", "x" * 65, "-rf", "ä"])
def test_names_that_are_none(store: Store, name: str) -> None:
    for call in (store.path, store.has, store.open, store.remove):
        with pytest.raises(InputError, match="NAME: .* is no name"):
            call(name)


def test_what_is_not_there(store: Store) -> None:
    for call in (store.open, store.remove):
        with pytest.raises(InputError, match="there is no context 'two'; there are one"):
            call("two")
    store.remove("one")
    assert store.names() == []
    with pytest.raises(InputError, match="there is no context 'one' yet"):
        store.open("one")


def verified(store: Store) -> None:
    with store.open("one") as context:
        context.verify(1)


def test_a_change_anywhere_is_seen(store: Store) -> None:
    """One bit in the header, in each section, between them, in the description; and random places."""
    path = store.path("one")
    whole = path.read_bytes()
    path.chmod(0o644)
    with store.open("one") as context:
        starts = [context.place(name)[0] for name in ("text", "tokens", "0.k")]
    places = {0, 9, 13, 20, 40, 1000, ALIGNMENT - 1, *starts, *(start + 40_000 for start in starts), len(whole) - 1}
    for place in places | set(random.Random(0).sample(range(len(whole)), 100)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(StoreError, match=r"one\.context: "):
            verified(store)
    for size in (0, 7, 100, ALIGNMENT, ALIGNMENT + 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(StoreError, match=r"one\.context: "):
            verified(store)
    path.write_bytes(whole + b"\0")
    with pytest.raises(StoreError, match="save the context again"):
        verified(store)
    path.write_bytes(whole)
    verified(store)


def test_another_version_is_named(store: Store) -> None:
    path = store.path("one")
    data = bytearray(path.read_bytes())
    data[8] = 9
    path.chmod(0o644)
    path.write_bytes(data)
    with pytest.raises(StoreError, match="is of version 9 and this program knows version 1"):
        store.open("one")


def test_an_error_while_saving_leaves_the_old_one(store: Store) -> None:
    def broken() -> list[Section]:
        def pieces() -> object:
            yield memoryview(PAGES)
            raise KeyboardInterrupt

        return [("0.k", pieces())]  # type: ignore[list-item]

    before = store.path("one").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        store.save("one", ABOUT, broken(), lambda done: None)
    assert store.path("one").read_bytes() == before
    assert [path.name for path in store.folder.iterdir()] == ["one.context"]


def test_a_full_disk_leaves_the_old_one(store: Store) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = store.path("one").read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (ALIGNMENT * 3, limits[1]))
    try:
        with pytest.raises(StoreError, match=r"one\.context: can't be written: "):
            store.save("one", ABOUT, sections(), lambda done: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert store.path("one").read_bytes() == before
    assert [path.name for path in store.folder.iterdir()] == ["one.context"]


_SAVES = """
import sys, time
from pathlib import Path
from dataclasses import replace
sys.path.insert(0, {tests!r})
from context.test_store import ABOUT, PAGES, Store
def pieces():
    for i in range(1000):
        print(i, flush=True)
        time.sleep(0.01)
        yield memoryview(PAGES)
Store(Path(sys.argv[1])).save("one", replace(ABOUT, model="new"), [("0.k", pieces())], lambda done: None)
"""


def test_killed_while_saving(store: Store) -> None:
    """The old one stays whole, nobody else may save it meanwhile, and the next one takes the place of what is left."""
    script = _SAVES.format(tests=str(Path(__file__).parents[1]))
    process = subprocess.Popen([sys.executable, "-c", script, store.folder], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    process.stdout.readline()
    with pytest.raises(InputError, match="another process saves 'one' just now"):
        store.save("one", ABOUT, sections(), lambda done: None)
    time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    verified(store)
    assert store.names() == ["one"]
    store.save("one", ABOUT, sections(), lambda done: None)
    assert [path.name for path in store.folder.iterdir()] == ["one.context"]
    verified(store)


def test_what_is_deleted_stays_open(store: Store) -> None:
    with store.open("one") as context:
        store.remove("one")
        context.verify(1)
        assert context.section("0.k") == PAGES
