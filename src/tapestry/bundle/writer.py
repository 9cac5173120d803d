"""Writes a bundle: under another name first, checked there, and only then by its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tapestry.bundle import manifest
from tapestry.bundle.check import Checked, check
from tapestry.bundle.folder import CHUNK_BYTES, Progress, hashed
from tapestry.bundle.manifest import BUNDLE, LIST, Bundle, Lacking, Listed
from tapestry.bundle.record import Record
from tapestry.errors import BundleError, Conflict, InputError
from tapestry.host import files
from tapestry.identity.envelope import sign
from tapestry.identity.keys import KeyPair

Told = Callable[[int], None]


class Writer:
    """A bundle that is being made in a folder of its own; `writing` makes one."""

    def __init__(self, root: Path, kind: manifest.Kind) -> None:
        self.root = root
        self.kind = kind
        self.files: dict[str, Listed] = {}
        self.lacking: list[Lacking] = []

    def lacks(self, what: str, why: str) -> None:
        """Something that belongs here cannot be had."""
        if len(self.lacking) < manifest.MAX_LACKING:
            self.lacking.append(Lacking(what=what, why=why[:200]))

    def put(self, path: str, data: bytes) -> None:
        """A small file; again, no effect."""
        if path not in self.files:
            self._make(path).write_bytes(data)
            self._note(path)

    def lines(self, path: str, lines: Iterable[bytes]) -> None:
        """A file of lines."""
        with self._make(path).open("wb") as out:
            out.writelines(lines)
        self._note(path)

    def copy(self, path: str, source: Path) -> None:
        """A file of any size. Raises `InputError` for a link or a device."""
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as given, self._make(path).open("wb") as out:
            shutil.copyfileobj(given, out, CHUNK_BYTES)
        self._note(path)

    def tree(self, path: str, source: Path) -> int:
        """All files below a folder; returns how many. Raises `InputError` for a name or a kind that no bundle
        may have."""
        names = sorted(each.relative_to(source).as_posix() for each in source.rglob("*") if not each.is_dir())
        for name in names:
            if (source / name).is_symlink() or not (source / name).is_file():
                raise InputError(f"{source / name} is no regular file", hint="copy what it stands for first")
            try:
                manifest.check_path(f"{path}/{name}")
            except BundleError as e:
                raise InputError(e.message, hint=f"rename {source / name}") from e
            self.copy(f"{path}/{name}", source / name)
        return len(names)

    def take(self, path: str) -> None:
        """All that was written to a folder of the bundle by somebody else."""
        for each in sorted((self.root / path).rglob("*")):
            if each.is_file():
                self._note(each.relative_to(self.root).as_posix())

    def finish(self, keypair: KeyPair, record: Record, root: str, **said: Any) -> Bundle:
        """Write the list, and sign it."""
        with (self.root / LIST).open("wb") as out:
            out.writelines(manifest.list_lines(self.files))
        with (self.root / LIST).open("rb") as file:
            listed = hashed(file)
        bundle = Bundle(
            kind=self.kind,
            list=listed.sha256,
            files=len(self.files),
            bytes=sum(each.bytes for each in self.files.values()),
            entries=record.entries,
            root=root,
            lacking=tuple(self.lacking),
            **said,
        )
        (self.root / BUNDLE).write_bytes(sign(bundle, keypair).to_bytes())
        return bundle

    def _make(self, path: str) -> Path:
        manifest.check_path(path, self.kind)
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _note(self, path: str) -> None:
        manifest.check_path(path, self.kind)
        with (self.root / path).open("rb") as file:
            self.files[path] = hashed(file)


class Writing:
    """What `writing` gives: the writer, and afterwards what was checked."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self._checked: Checked | None = None

    @property
    def checked(self) -> Checked:
        """Only after the bundle was written."""
        if self._checked is None:
            raise RuntimeError("the bundle is not written yet")
        return self._checked


@contextmanager
def writing(
    out: Path,
    kind: manifest.Kind,
    *,
    progress: Progress = lambda _done, _all: None,
    told: Told = lambda _: None,
) -> Iterator[Writing]:
    """Make a bundle in `out`: whole and checked, or not at all. What a kill leaves, the next call removes.

    Raises:
        Conflict: there is something in `out`.
        BundleError: what was written does not hold.
        DiskFull: no space; nothing is left.
    """
    out = out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Conflict(f"{out} is not empty", hint="name a folder that does not exist yet")
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with files.full_disk(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            made = Writing(Writer(temporary, kind))
            yield made
        made._checked = check(temporary, progress=progress, told=told)
        files.publish_dir(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
