"""The static mirror: whole at every instant, cheap to go on with, and never of two histories."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestry.audit import pieces
from tapestry.audit.file import Line
from tapestry.audit.verify import Verifier
from tapestry.core import mirror as mirrors
from tapestry.core.mirror import Mirror
from tapestry.core.proofs import Proofs
from tapestry.core.service import Core
from tapestry.errors import Busy, Conflict, FormatError, InputError
from tapestry.host import files
from tests.audit.stage import Scene, on_core
from tests.core.support import CoreUnderTest

ENTRIES = 7


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "ENTRIES", ENTRIES)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with on_core(tmp_path / "core") as scene:
        yield scene


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "mirror"


def mirror_of(core: Core, folder: Path) -> Mirror:
    return Mirror(folder, core.journal, Proofs(core.journal, core.consortium), core.store)


def verified(folder: Path) -> int:
    """Entries of a mirror that holds."""
    return Verifier().take(pieces.read(folder.joinpath)).entries


def grow(scene: Scene) -> Iterator[int]:
    """What happens in a run, a step at a time; entries so far."""
    ada, bob = scene.node("ada"), scene.node("bob")
    scene.running(ada, bob, rounds_total=8)
    for number in range(8):
        yield scene.core.journal.tree_head()[0]
        scene.send(ada)
        if number % 2:
            yield scene.core.journal.tree_head()[0]
        scene.send(bob)
        scene.merge()


def test_it_follows_the_ledger(scene: Scene, folder: Path) -> None:
    mirror, full = mirror_of(scene.core, folder), dict[str, bytes]()
    for size in grow(scene):
        assert mirror.update() == mirror.update() == size == verified(folder)
        assert (folder / "checkpoint").read_text() == scene.head()
        for name, data in full.items():
            assert (folder / name).read_bytes() == data, "a full piece has changed"
        names = sorted(path.name for path in folder.glob("ledger-*"))
        assert names == [pieces.name(number) for number in range(-(-size // ENTRIES))]
        full |= {name: (folder / name).read_bytes() for name in names[: size // ENTRIES]}
    assert len(full) > 5
    lines: list[Line] = list(Proofs(scene.core.journal, scene.core.consortium).lines(scene.core.store))
    there = list(pieces.read(folder.joinpath))[:-1]
    assert there == lines[: len(there)]


def test_what_an_update_writes_does_not_grow(
    scene: Scene, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what is new, however long the ledger is; a restart looks at one piece."""
    written: list[int] = []
    real = files.append

    def counted(path: Path, offset: int, data: bytes) -> None:
        written.append(len(data))
        real(path, offset, data)

    monkeypatch.setattr(mirrors.files, "append", counted)
    mirror, before = mirror_of(scene.core, folder), 0
    for _ in grow(scene):
        written.clear()
        mirror.update()
        every = sum(path.stat().st_size for path in folder.glob("ledger-*"))
        assert sum(written) == every - before
        before = every
        mirror.close()
        mirror = mirror_of(scene.core, folder)


class Cut(Exception):
    """The process ends here."""


@pytest.mark.parametrize("torn", [False, True])
def test_whenever_it_is_cut_off_it_is_whole(
    scene: Scene, folder: Path, monkeypatch: pytest.MonkeyPatch, torn: bool
) -> None:
    """At each write in turn, before it or in the middle; the next process goes on."""
    left = [0]
    real_append, real_write = files.append, files.write_atomic

    def append(path: Path, offset: int, data: bytes) -> None:
        left[0] -= 1
        if not left[0]:
            if torn:
                real_append(path, offset, data[: len(data) // 2])
            raise Cut
        real_append(path, offset, data)

    def write(path: Path, data: bytes, **more: Any) -> None:
        left[0] -= 1
        if not left[0]:
            raise Cut
        real_write(path, data, **more)

    monkeypatch.setattr(mirrors.files, "append", append)
    monkeypatch.setattr(mirrors.files, "write_atomic", write)
    cuts, told = 0, 0
    for size in grow(scene):
        for at in range(1, 9):
            mirror, left[0] = mirror_of(scene.core, folder), at
            try:
                mirror.update()
            except Cut:
                cuts += 1
            mirror.close()
            left[0] = 0
            if (folder / "checkpoint").exists():
                assert (told := verified(folder)) <= size
        assert told == size
    assert cuts > 20


def test_the_order_of_its_writes_is_what_keeps_it_whole(scene: Scene, folder: Path) -> None:
    """The control: with the checkpoint first, a mirror that is cut off lacks what it tells of."""
    list(grow(scene))
    mirror_of(scene.core, folder).update()
    last = max(folder.glob("ledger-*"))
    last.write_bytes(last.read_bytes()[:-20])
    with pytest.raises(FormatError, match="cut off"):
        verified(folder)
    last.unlink()
    with pytest.raises(InputError, match=last.name):
        verified(folder)


def test_a_copy_made_meanwhile_holds(scene: Scene, folder: Path, tmp_path: Path) -> None:
    """File after file in order of names, while the ledger grows between them."""
    mirror, copy = mirror_of(scene.core, folder), tmp_path / "copy"
    growing = grow(scene)
    for _ in range(4):
        next(growing)
    mirror.update()
    copy.mkdir()
    done: set[str] = set()
    while rest := sorted({path.name for path in folder.iterdir() if path.name != ".lock"} - done):
        shutil.copy(folder / rest[0], copy)
        done.add(rest[0])
        next(growing, None)
        mirror.update()
    assert 0 < verified(copy) < verified(folder)


def test_a_lie_in_it_is_found(scene: Scene, folder: Path) -> None:
    list(grow(scene))
    mirror_of(scene.core, folder).update()
    changed = 0
    for path in folder.glob("ledger-*"):
        data = path.read_bytes()
        if b'"tokens":1000' in data:
            path.write_bytes(data.replace(b'"tokens":1000', b'"tokens":1001', 1))
            with pytest.raises(Exception, match="entry"):
                verified(folder)
            path.write_bytes(data)
            changed += 1
    assert changed > 3 and verified(folder)


def test_it_is_not_gone_on_with_by_a_core_that_lacks_or_contradicts_it(
    scene: Scene, folder: Path, tmp_path: Path
) -> None:
    growing = grow(scene)
    next(growing)
    shutil.copytree(scene.root, tmp_path / "older")
    list(growing)
    mirror = mirror_of(scene.core, folder)
    size = mirror.update()
    mirror.close()
    before = {path: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}
    with on_core(tmp_path / "another") as another:
        list(grow(another))
        another.node("cyd")
        with Core.open(tmp_path / "older") as older:
            for core in (older, another.core):
                wrong = mirror_of(core, folder)
                with pytest.raises(Conflict, match="not this core's"):
                    wrong.update()
                wrong.close()
    assert {path: path.read_bytes() for path in before} == before
    assert mirror_of(scene.core, folder).update() == size, "the control"


def test_one_process_writes_it(scene: Scene, folder: Path) -> None:
    next(grow(scene))
    one, two = (mirror_of(scene.core, folder) for _ in range(2))
    one.update()
    with pytest.raises(Busy):
        two.update()
    one.close()
    assert two.update() == verified(folder)


def test_a_served_core_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to its end, also where it is killed."""
    monkeypatch.undo()
    core = CoreUnderTest(tmp_path / "core")
    toml = core.root / "core.toml"
    toml.write_text(toml.read_text() + '\n[ledger]\nmirror = "mirror"\n')
    core.start()
    try:
        folder = core.root / "mirror"
        files.wait_for(lambda: (folder / "checkpoint").exists(), timeout_s=30)
        core.member("ada")
        assert files.wait_for(lambda: _size(folder) == 4, timeout_s=30)
        core.kill()
        assert verified(folder) == 4
        core.start()
        core.member("bob")
        core.stop()
        assert verified(folder) == 7, "what was there when it stopped"
    finally:
        core.close()


def _size(folder: Path) -> int:
    return pieces.size_of((folder / "checkpoint").read_text())
