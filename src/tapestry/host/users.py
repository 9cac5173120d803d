"""A process under another user than the one that starts it, as only root can start one."""

from __future__ import annotations

import ctypes
import os
import pwd
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

_PR_SET_NO_NEW_PRIVS: Final = 38
_MOST: Final = (1 << 32) - 2
"""The largest number of a user; the next one stands for none."""


@dataclass(frozen=True)
class User:
    """By number, since a user need not have a name."""

    uid: int
    gid: int

    @classmethod
    def find(cls, name: str) -> User:
        """By name or number; a number without a name has the group of that number. Raises `ValueError`."""
        number = name.isascii() and name.isdigit()
        with suppress(KeyError, OverflowError):
            entry = pwd.getpwuid(int(name)) if number else pwd.getpwnam(name)
            return cls(entry.pw_uid, entry.pw_gid)
        if not number or int(name) > _MOST:
            raise ValueError(f"no user {name!r}")
        return cls(int(name), int(name))

    @classmethod
    def parse(cls, text: str) -> User:
        """What `str` wrote. Raises `ValueError`."""
        uid, _, gid = text.partition(":")
        if not all(each.isascii() and each.isdigit() and int(each) <= _MOST for each in (uid, gid)):
            raise ValueError(f"{text!r} is not UID:GID")
        return cls(int(uid), int(gid))

    def __str__(self) -> str:
        return f"{self.uid}:{self.gid}"


def become(user: User) -> None:
    """Be this user for good: with no other groups, no capabilities, and no way back by a program that gives
    rights (su, sudo). What it makes in a folder that hands on its group, that group may change. Clears the
    death signal. Raises `PermissionError`."""
    os.setgroups([])
    os.setgid(user.gid)
    os.setuid(user.uid)
    os.umask(0o002)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl(PR_SET_NO_NEW_PRIVS): {os.strerror(code)}")


def ask(user: User, question: Callable[[], int]) -> int:
    """What a process of this user answers, from 0 to 250; tried in a forked child.

    Raises `PermissionError` where there can be no such process.
    """
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            become(user)
            code = 254
            code = question()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if not 0 <= code <= 250:
        raise PermissionError(f"no process can be started as {user}")
    return code
