"""Filters of system calls, as the kernel takes them: what no program under test needs, and what namespaces don't hide.

Numbers are those of asm/unistd.h; arm64 has no calls by path where there are newer ones by folder and path.
"""

from __future__ import annotations

import errno
import platform
import socket
import struct
from collections.abc import Mapping, Sequence

Call = tuple[int | None, int | None]
"""A call's numbers, on x86_64 and aarch64."""

_KERNEL: Mapping[str, Call] = {
    "acct": (163, 89), "add_key": (248, 217), "bpf": (321, 280), "delete_module": (176, 106),
    "fanotify_init": (300, 262), "finit_module": (313, 273), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fsopen": (430, 430), "fspick": (433, 433), "init_module": (175, 105), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "io_uring_setup": (425, 425), "ioperm": (173, None), "iopl": (172, None),
    "kexec_file_load": (320, 294), "kexec_load": (246, 104), "keyctl": (250, 219), "mount": (165, 40),
    "mount_setattr": (442, 442), "move_mount": (429, 429), "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265), "open_tree": (428, 428), "perf_event_open": (298, 241), "pivot_root": (155, 41),
    "quotactl": (179, 60), "reboot": (169, 142), "request_key": (249, 218), "setns": (308, 268),
    "settimeofday": (164, 170), "swapoff": (168, 225), "swapon": (167, 224), "syslog": (103, 116),
    "umount2": (166, 39), "unshare": (272, 97), "userfaultfd": (323, 282), "vhangup": (153, 58),
}  # fmt: skip
# Modes, owners and attributes of files anywhere, and what processes of one user share: Landlock guards none of them.
_SHARED: Mapping[str, Call] = {
    "chmod": (90, None), "chown": (92, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "fchown": (93, 55), "fchownat": (260, 54), "fremovexattr": (199, 16), "fsetxattr": (190, 7),
    "futimesat": (261, None), "ioprio_set": (251, 30), "lchown": (94, None), "lremovexattr": (198, 15),
    "lsetxattr": (189, 6), "mq_open": (240, 180), "mq_unlink": (241, 181), "msgctl": (71, 187), "msgget": (68, 186),
    "msgrcv": (70, 188), "msgsnd": (69, 189), "pidfd_getfd": (438, 438), "ptrace": (101, 117),
    "removexattr": (197, 14), "semctl": (66, 191), "semget": (64, 190), "semop": (65, 193), "semtimedop": (220, 192),
    "setpriority": (141, 140), "setxattr": (188, 5), "shmat": (30, 196), "shmctl": (31, 195), "shmget": (29, 194),
    "utime": (132, None), "utimes": (235, None),
}  # fmt: skip
_SIGNALS: Mapping[str, Call] = {
    "kill": (62, 129), "pidfd_send_signal": (424, 424), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "tgkill": (234, 131), "tkill": (200, 130),
}  # fmt: skip
# With 0 for the process they are about the caller itself.
_ABOUT_ANY: Mapping[str, Call] = {
    "prlimit64": (302, 261), "sched_setaffinity": (203, 122), "sched_setattr": (314, 274),
    "sched_setparam": (142, 118), "sched_setscheduler": (144, 119),
}  # fmt: skip
_SOCKET, _UTIMENSAT, _CLONE, _CLONE3 = (41, 198), (280, 88), (56, 220), (435, 435)
_NEW_USER = 0x10000000  # CLONE_NEWUSER
_LAST_KNOWN = 462  # mseal; nobody has looked at what newer calls can do
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

_LOAD, _EQUAL, _GREATER, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

Instruction = tuple[int, int, int, int]
"""Code, how far to jump if true and if false, and the constant."""

_ALLOWED: Instruction = (_RETURN, 0, 0, _ALLOW)


def is_known() -> bool:
    """Whether the numbers of this machine's system calls are here."""
    return platform.machine() in _ARCHITECTURES


def in_namespaces() -> bytes:
    """For processes that have all namespaces to themselves: no way to the kernel's rarer parts, or round the network.

    Sockets of machine to hypervisor (vsock) and the like belong to no namespace, so only the usual families are there.
    """
    families = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
    return _program([*_refused(_KERNEL), *_only(_SOCKET, 0, families, errno.EAFNOSUPPORT)])


def beside_others(*, signals: bool) -> bytes:
    """For processes among others of the same user: no sockets, and nothing that reaches those or their files.

    Args:
        signals: whether they may be sent; without, nobody but the kernel can end a process.
    """
    return _program(
        [
            *_refused(_KERNEL),
            *_refused(_SHARED),
            *(_refused(_SIGNALS) if not signals else ()),
            *(one for number in _ABOUT_ANY.values() for one in _only(number, 0, (0,), errno.EPERM)),
            *_when(_UTIMENSAT, _without_path()),
            *_when(_CLONE, [_argument(0), (_ANY_BIT, 0, 1, _NEW_USER), _error(errno.EPERM), _ALLOWED]),
            *_when(_CLONE3, [_error(errno.ENOSYS)]),  # its flags are out of a filter's sight; libraries then use clone
            *_when(_SOCKET, [_error(errno.EACCES)]),
        ]
    )


def _program(rules: Sequence[Instruction]) -> bytes:
    _, architecture = _ARCHITECTURES[platform.machine()]
    head: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),  # calls of 32 bits have other numbers
        (_LOAD, 0, 0, _NUMBER),
        (_GREATER, 0, 1, _LAST_KNOWN),  # so have those of x32, which are all greater
        _error(errno.ENOSYS),
    ]
    return b"".join(struct.pack("=HBBI", *one) for one in [*head, *rules, _ALLOWED])


def _here(call: Call) -> int | None:
    return call[_ARCHITECTURES[platform.machine()][0]]


def _error(number: int) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | number)


def _argument(place: int, *, upper: bool = False) -> Instruction:
    """Loads half of an argument; integers are in the lower one, pointers in both."""
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * place + 4 * upper)


def _when(call: Call, body: list[Instruction]) -> list[Instruction]:
    """What happens to one call; the body always ends in a decision."""
    return [(_EQUAL, 0, len(body), number), *body] if (number := _here(call)) is not None else []


def _refused(calls: Mapping[str, Call]) -> list[Instruction]:
    return [one for call in calls.values() for one in _when(call, [_error(errno.EPERM)])]


def _only(call: Call, argument: int, values: Sequence[int], error: int) -> list[Instruction]:
    """Allows a call where an argument is one of some integers."""
    checks = [one for value in values for one in ((_EQUAL, 0, 1, value), _ALLOWED)]
    return _when(call, [_argument(argument), *checks, _error(error)])


def _without_path() -> list[Instruction]:
    """utimensat of an open file: its second argument, a pointer, is null."""
    refused = _error(errno.EPERM)
    halves = [one for upper in (False, True) for one in (_argument(1, upper=upper), (_EQUAL, 1, 0, 0), refused)]
    return [*halves, _ALLOWED]
