"""A program that confines itself by Landlock and seccomp, and runs another in its place: `landlock.py` starts it.

It is run alone, by `python -I -S`, so it imports nothing of ours; and of Python's own modules only those that need no
others, as these are most of the time that a start takes. The parent stays free: whatever the other program has started
becomes its child at the latest when its own parent ends (it is a "subreaper"), so that it can end all of it.
"""
# ruff: noqa: SIM105  (contextlib is one of those modules)

from __future__ import annotations

import ctypes
import marshal
import os
import resource
import sys
from _signal import SIG_DFL, SIG_IGN, SIGKILL, SIGSTOP, SIGTERM, signal  # type: ignore[import-not-found]

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # system calls, the same on all machines
_PATH_BENEATH, _VERSION = 1, 1
_EXECUTE, _WRITE, _READ, _READ_DIR, _TRUNCATE, _IOCTL = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE | _IOCTL
_TCP, _ABSTRACT_SOCKETS_AND_SIGNALS = 3, 3
_PDEATHSIG, _SECCOMP, _CAPBSET_DROP, _SUBREAPER, _NO_NEW_PRIVS = 1, 22, 24, 36, 38
_CAPABILITY_VERSION = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def abi() -> int:
    """The version of Landlock that the kernel has; 0 where it has none, or doesn't use it."""
    return max(0, _libc.syscall(_CREATE, None, ctypes.c_size_t(0), _VERSION))


def confine(version: int, readable: list[str], writable: list[str], program: bytes) -> None:
    """From here on this process reads only `readable`, changes only `writable`, and calls what the filter lets pass.

    Args:
        version: of Landlock, at most the kernel's.
        program: the filter.

    Raises:
        OSError: the kernel refuses.
    """
    everything = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    wanted = _Ruleset(everything, _TCP if version >= 4 else 0, _ABSTRACT_SOCKETS_AND_SIGNALS if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = _call(_CREATE, ctypes.byref(wanted), ctypes.c_size_t(size), 0)
    reading = _EXECUTE | _READ | _READ_DIR
    for paths, allowed in ((readable, reading), (writable, everything)):
        for path in paths:
            try:
                _allow(rules, path, allowed)
            except FileNotFoundError:
                pass
    _drop_capabilities()
    _prctl(_NO_NEW_PRIVS, 1)
    _call(_RESTRICT, rules, 0)
    os.close(rules)
    _prctl(_SECCOMP, 2, ctypes.byref(_Filter(len(program) // 8, program)))


def _allow(rules: int, path: str, allowed: int) -> None:
    folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        beneath = _Beneath(allowed if os.path.isdir(path) else allowed & _OF_FILES, folder)
        _call(_ADD, rules, _PATH_BENEATH, ctypes.byref(beneath), 0)
    finally:
        os.close(folder)


def _drop_capabilities() -> None:
    """Root without them is a user like others."""
    try:
        for capability in range(64):
            _prctl(_CAPBSET_DROP, capability)
    except OSError:  # there is no such one, or it is nobody's to drop
        pass
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    if _libc.capset(header, (ctypes.c_uint32 * 6)()) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _call(number: int, *args: object) -> int:
    result = int(_libc.syscall(number, *args))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _prctl(option: int, value: int, pointer: object = None) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), pointer, ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def limit_tasks(more: int) -> None:
    """From here on this user can have no more than `more` threads beyond those that there are; root is spared."""
    there = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{pid}").st_uid == os.getuid():
                there += len(os.listdir(f"/proc/{pid}/task"))
        except OSError:  # it has ended
            pass
    resource.setrlimit(resource.RLIMIT_NPROC, (there + more, there + more))


def children() -> list[int]:
    """Of this process, which has one thread."""
    with open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:
        return [int(pid) for pid in file.read().split()]


def end_all() -> None:
    """Ends whatever was started, faster than it can start more: first everything is stopped, then killed."""
    while found := children():
        stopped: set[int] = set()
        while new := [pid for pid in _tree(found) if pid not in stopped]:
            stopped.update(new)
            _send(SIGSTOP, new)
        _send(SIGKILL, list(stopped))
        try:
            os.waitpid(-1, 0)
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass


def _tree(pids: list[int]) -> list[int]:
    found: list[int] = []
    left = list(pids)
    while left:
        pid = left.pop()
        found.append(pid)
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                    left += map(int, file.read().split())
        except OSError:  # it has ended
            pass
    return found


def _send(number: int, pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def main(description: int) -> None:
    """Runs a command.

    Args:
        description: an open file with a dictionary, as `marshal` writes it.
    """
    with open(description, "rb") as file:
        spec = marshal.load(file)
    _prctl(_SUBREAPER, 1)
    _prctl(_PDEATHSIG, SIGTERM)
    signal(SIGTERM, lambda *_: sys.exit(1))
    ready, failed = os.pipe()  # closed by exec
    pid = os.fork()
    if pid == 0:
        os.close(ready)
        os.close(spec["status"])
        signal(SIGTERM, SIG_DFL)
        try:
            os.setsid()
            os.chdir(spec["folder"])
            if spec["tasks"] is not None:
                limit_tasks(spec["tasks"])
            if spec["rules"] is not None:
                confine(**spec["rules"])
        except OSError as error:
            os.write(failed, f"{error}".encode())
            os._exit(1)
        try:
            os.execvpe(spec["command"][0], spec["command"], spec["env"])
        except OSError as error:
            os.write(2, f"{spec['command'][0]}: {error.strerror}\n".encode())
            os._exit(127)
    try:
        os.close(failed)
        if problem := os.read(ready, 4096):
            os.write(spec["status"], b"problem " + problem)
            sys.exit(1)
        status = _wait(pid)
        os.write(spec["status"], b"exit-code %d" % (status if status >= 0 else 128 - status))
    finally:
        signal(SIGTERM, SIG_IGN)
        end_all()
    os._exit(0)  # Python's own end takes a while, and nothing is left to it


def _wait(pid: int) -> int:
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == pid:
            return os.waitstatus_to_exitcode(status)
