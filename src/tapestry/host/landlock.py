"""Files a process may touch, and no others, for good: Landlock, where the kernel offers it.

    restrict([Rule(Path("/usr"), "r"), Rule(home / "blobs", "rw")])

What was opened before stays open. `stat` of any path stays possible, reading and listing does not. It holds
for root as well, and for all that the process starts. Kernel documentation: userspace-api/landlock.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Rights = Literal["r", "rw", "w"]

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""The same numbers on every architecture."""
_VERSION: Final = 1
_PATH_BENEATH: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG, _MAKE_SYM = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 12
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_EVERY: Final = (1 << 13) - 1
"""All rights of the first version, devices and sockets among them."""

_READ: Final = _EXECUTE | _READ_FILE | _READ_DIR
_MAKE: Final = _MAKE_DIR | _MAKE_REG | _MAKE_SYM
_CHANGE: Final = _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE | _REFER | _TRUNCATE
_RIGHTS: Final[dict[Rights, int]] = {"r": _READ, "rw": _READ | _CHANGE, "w": _CHANGE}
_OF_FILES: Final = _EXECUTE | _READ_FILE | _WRITE_FILE | _TRUNCATE


@dataclass(frozen=True)
class Rule:
    """A file or folder with all below it, and what may be done there."""

    path: Path
    rights: Rights

    @classmethod
    def parse(cls, text: str) -> Rule:
        """What `str` wrote. Raises `ValueError`."""
        rights, colon, path = text.partition(":")
        if rights not in _RIGHTS or not colon or not path:
            raise ValueError(f"{text!r} is not r:PATH, w:PATH or rw:PATH")
        return cls(Path(path), rights)

    def __str__(self) -> str:
        return f"{self.rights}:{self.path}"


def version() -> int:
    """Of the kernel's Landlock; 0 where it has none, or may not use it."""
    found = _call(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)
    return max(0, found)


def restrict(rules: Iterable[Rule]) -> bool:
    """From now on this thread, and all that it starts, touches nothing but what the rules name; a path that
    is not there is left out.

    Returns:
        whether that is so: False, and nothing has changed, where the kernel offers too little.
    """
    found = version()
    if found < 2:  # the first cannot say that a file may move from folder to folder
        return False
    handled = _EVERY | _REFER | (_TRUNCATE if found >= 3 else 0)
    attribute = struct.pack("=Q", handled)
    ruleset = _call(_CREATE_RULESET, attribute, ctypes.c_size_t(len(attribute)), 0)
    if ruleset < 0:
        return False
    try:
        for rule in rules:
            _add(ruleset, rule, handled)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            return False
        return _call(_RESTRICT_SELF, ruleset, 0) == 0
    finally:
        os.close(ruleset)


def _add(ruleset: int, rule: Rule, handled: int) -> None:
    try:
        fd = os.open(rule.path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        allowed = _RIGHTS[rule.rights] & handled
        if not rule.path.is_dir():
            allowed &= _OF_FILES
        attribute = struct.pack("=Qi", allowed, fd)
        if _call(_ADD_RULE, ruleset, _PATH_BENEATH, attribute, 0) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"landlock: {os.strerror(code)}", str(rule.path))
    finally:
        os.close(fd)


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return int(libc.syscall(ctypes.c_long(number), *arguments))
