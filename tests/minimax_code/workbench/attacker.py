"""Tries to get out of the sandbox that it runs in, and tells what came of each try; test_sandbox.py runs it there."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

target: dict[str, Any] = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)


def system_call(number: int, *args: int) -> None:
    if libc.syscall(number, *args) < 0:
        raise OSError(ctypes.get_errno(), "system call")


def connect(family: int, address: Any, kind: int = socket.SOCK_STREAM) -> None:
    with socket.socket(family, kind) as one:
        one.settimeout(2)
        one.connect(address)
        one.send(b"stolen")


def write_through_a_link() -> None:
    Path("link").symlink_to(target["secret"])
    Path("link").write_text("changed")


def hard_link() -> None:
    os.link(target["secret"], "hard")
    Path("hard").write_text("changed")


TRIES: dict[str, Callable[[], object]] = {
    "read a secret": lambda: Path(target["secret"]).read_text(),
    "read passwords": lambda: Path("/etc/shadow").read_text(),
    "read the parent's environment": lambda: Path(f"/proc/{target['parent']}/environ").read_bytes()[0],
    "write beside the folder": lambda: Path(target["secret"]).write_text("changed"),
    "write to the system": lambda: Path("/usr/attacked").write_text("x"),
    "write to a new folder": lambda: Path("/attacked").write_text("x"),
    "write through a link": write_through_a_link,
    "hard link": hard_link,
    "rename": lambda: os.rename(target["secret"], "moved"),
    "truncate": lambda: os.truncate(target["secret"], 0),
    "change the mode": lambda: os.chmod(target["secret"], 0o777),
    "change the owner": lambda: os.chown(target["secret"], 1, 1),
    "change the time": lambda: os.utime(target["secret"], (1, 1)),
    "remove": lambda: os.remove(target["secret"]),
    "remove the system": lambda: shutil.rmtree("/usr/lib"),
    "TCP": lambda: connect(socket.AF_INET, ("127.0.0.1", target["port"])),
    "UDP": lambda: connect(socket.AF_INET, ("192.0.2.1", 53), socket.SOCK_DGRAM),
    "IPv6": lambda: connect(socket.AF_INET6, ("2001:db8::1", 80)),
    "socket of a path": lambda: connect(socket.AF_UNIX, target["socket"]),
    "abstract socket": lambda: connect(socket.AF_UNIX, "\0" + target["abstract"]),
    "hypervisor": lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM),
    "raw packets": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "signal to the parent": lambda: os.kill(target["parent"], signal.SIGUSR1),
    "limits of the parent": lambda: __import__("resource").prlimit(target["parent"], 7, (8, 8)),
    "io_uring": lambda: system_call(425, 1, 0),
    "mount": lambda: system_call(165 if os.uname().machine == "x86_64" else 40, 0, 0, 0, 0, 0),
    "new user namespace": lambda: system_call(272 if os.uname().machine == "x86_64" else 97, 0x10000000),
    "a call that nobody knows yet": lambda: system_call(469, 0),
}

for name, attempt in TRIES.items():
    try:
        attempt()
        print(f"{name}: SUCCEEDED")
    except OSError as error:
        print(f"{name}: {type(error).__name__}")
print(sorted(os.environ.keys() - {"LC_CTYPE", "PWD"}))  # these are Python's and bubblewrap's own
