"""What a machine still has after its power was cut.

The files are real ones in memory. What is on disk for good is known beside them: the content of each file
when it was synced last, and the names in each folder when that was. A power cut takes, for each name and
each content that changed since, the old or the new one, or new content that is torn.
"""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.sim.scheduler import Crash

DATABASE: Final = "core.sqlite"
"""SQLite syncs by itself: its files are as they are."""


class Disk:
    """One machine's files below `root`, all of them on disk for good at first."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._content: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        self.remember(root)

    def remember(self, folder: Path) -> None:
        """All below it is on disk now."""
        names: dict[str, int] = {}
        for entry in os.scandir(folder):
            if entry.name.startswith(DATABASE):
                continue
            names[entry.name] = entry.inode()
            if entry.is_dir(follow_symlinks=False):
                self.remember(Path(entry.path))
            else:
                self._content[entry.inode()] = Path(entry.path).read_bytes()
        self._names[folder.stat().st_ino] = names

    def synced(self, fd: int) -> None:
        info = os.fstat(fd)
        if stat.S_ISDIR(info.st_mode):
            with os.scandir(fd) as entries:
                self._names[info.st_ino] = {
                    e.name: e.inode() for e in entries if not e.name.startswith(DATABASE)
                }
        else:
            with open(f"/proc/self/fd/{fd}", "rb") as file:
                self._content[info.st_ino] = file.read()

    def lose(self, rng: random.Random) -> None:
        """Cut the power."""
        self._settle(self.root, rng)
        self._content.clear()
        self._names.clear()
        self.remember(self.root)

    def _settle(self, folder: Path, rng: random.Random) -> None:
        kept = self._names.get(folder.stat().st_ino, {})
        with os.scandir(folder) as entries:
            now = {e.name: e for e in entries if not e.name.startswith(DATABASE)}
        for name in sorted(now.keys() | kept.keys()):
            entry, old = now.get(name), kept.get(name)
            path = folder / name
            new = entry.inode() if entry is not None else None
            if new != old and rng.random() < 0.5:
                self._restore(path, old, is_folder=entry is not None and entry.is_dir())
                continue
            if entry is None or new is None:
                continue
            if entry.is_dir(follow_symlinks=False):
                self._settle(path, rng)
            else:
                self._tear(path, self._content.get(new), rng)

    def _restore(self, path: Path, inode: int | None, *, is_folder: bool) -> None:
        """The name as it was when its folder was synced; a new folder goes with all below it."""
        if is_folder:
            _remove(path)
            return
        path.unlink(missing_ok=True)
        if inode is not None and inode not in self._names:
            path.write_bytes(self._content.get(inode, b""))

    @staticmethod
    def _tear(path: Path, kept: bytes | None, rng: random.Random) -> None:
        data = path.read_bytes()
        if data == kept:
            return
        fate = rng.random()
        if fate < 0.3:
            return  # it had been written all the same
        if fate < 0.6 or kept is None:
            # What was synced stays as far as nothing else was written over it, as when more is appended.
            least = len(os.path.commonprefix([data, kept or b""]))  # noqa: RUF071 - no paths
            cut = least + int(rng.random() * (len(data) - least))
            path.write_bytes(data[:cut] + bytes(len(data) - cut) * (fate < 0.5))
        else:
            path.write_bytes(kept)


def _remove(folder: Path) -> None:
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            _remove(entry)
        else:
            entry.unlink()
    folder.rmdir()


class Hooks:
    """What the world says to a file operation of the task whose turn it is. Each may raise `Crash`, or
    `OSError` for a full disk."""

    def before(self, operation: str, *, writes: int = 0) -> int | None:
        """Returns after how many bytes a write ends for good, None where it goes through."""
        raise NotImplementedError

    def synced(self, fd: int) -> None:
        raise NotImplementedError

    def renamed(self) -> None:
        raise NotImplementedError


_hooks: Hooks | None = None


@contextmanager
def hooked(hooks: Hooks) -> Iterator[None]:
    """Within, the operating system's file functions ask `hooks` first."""
    global _hooks
    if _hooks is not None:
        raise RuntimeError("there is one simulation at a time")
    real = {name: getattr(os, name) for name in PATCHES}
    _hooks = hooks
    try:
        for name, make in PATCHES.items():
            setattr(os, name, make(name, real[name]))
        yield
    finally:
        _hooks = None
        for name, function in real.items():
            setattr(os, name, function)


def _syncing(name: str, real: Callable[[int], None]) -> Callable[[int], None]:
    def call(fd: int) -> None:
        if _hooks is None:
            return real(fd)
        _hooks.before("fsync")
        _hooks.synced(fd)

    return call


def _writing(name: str, real: Callable[..., int]) -> Callable[..., int]:
    def call(fd: int, data: Any, *more: int) -> int:
        cut = _hooks.before("write", writes=len(data)) if _hooks is not None else None
        if cut is None:
            return real(fd, data, *more)
        real(fd, memoryview(data)[:cut], *more)
        raise Crash

    return call


def _naming(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        if _hooks is not None:
            _hooks.before(name)
        result = real(*args, **options)
        if _hooks is not None:
            _hooks.renamed()
        return result

    return call


PATCHES: Final[dict[str, Callable[[str, Any], Any]]] = {
    "fsync": _syncing,
    "fdatasync": _syncing,
    "write": _writing,
    "pwrite": _writing,
    **dict.fromkeys(("replace", "rename", "link", "unlink", "ftruncate", "mkdir"), _naming),
}


def no_space() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
