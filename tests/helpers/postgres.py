"""A PostgreSQL server for the tests, in a temporary folder, from the binaries that Debian's package installs."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psycopg


def _binaries() -> Path:
    """Where `initdb` and `postgres` are; the newest version."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    beside = shutil.which("initdb")
    assert found or beside, "the tests need PostgreSQL: apt-get install postgresql"
    return found[-1].parent if found else Path(str(beside)).parent


@contextmanager
def postgres() -> Generator[str, None, None]:
    """Starts a server and yields the URL of its maintenance database; it ends with the block.

    It listens on a socket in its folder alone. PostgreSQL refuses to run as root; then it is the package's own user.
    """
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    as_user = {"user": user, "group": user} if os.getuid() == 0 else {}
    binaries = _binaries()
    with tempfile.TemporaryDirectory(prefix="openm3-pg-", dir="/tmp") as name:  # sockets want short paths
        folder = Path(name)
        if as_user:
            shutil.chown(folder, user, user)
        init = [
            binaries / "initdb",
            "--pgdata",
            folder / "data",
            "--auth",
            "trust",
            "--no-sync",
            "--username",
            "openm3",
        ]
        subprocess.run(init, check=True, stdout=subprocess.DEVNULL, cwd=folder, **as_user)  # type: ignore[call-overload]
        options = ["listen_addresses=", f"unix_socket_directories={folder}", "fsync=off", "max_connections=200"]
        command = [binaries / "postgres", "-D", folder / "data", *(part for each in options for part in ("-c", each))]
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(command, stderr=log, cwd=folder, **as_user)  # type: ignore[call-overload]
        url = f"postgresql://openm3@/postgres?host={folder}"
        try:
            _wait(url, server, folder / "log")
            yield url
        finally:
            server.send_signal(signal.SIGQUIT)  # at once: nothing is worth keeping
            server.wait(20)


def new_schema(url: str, name: str) -> str:
    """Makes an empty schema, which is a hundred times quicker than a database, and returns the URL that uses it."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'CREATE SCHEMA "{name}"'.encode())
    return f"{url}&options=-csearch_path%3D{name}"


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        assert server.poll() is None, log.read_text()
        try:
            psycopg.connect(url).close()
            return
        except psycopg.OperationalError:
            time.sleep(0.1)
    raise AssertionError(log.read_text())
