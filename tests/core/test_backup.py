"""A core is copied while it serves, and set up again from the copy, on another engine if one likes."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tapestry.core import backup as backups
from tapestry.core import operator, settings
from tapestry.errors import FormatError, HashMismatch, SettingsError, TapestryError
from tests.core.support import CoreUnderTest, Member, make_plan
from tests.postgresql import Server


@pytest.fixture
def members(serving: CoreUnderTest, tmp_path: Path) -> list[Member]:
    """Two, after one round."""
    plan = make_plan(tmp_path / "made", total=3)
    members = serving.running(plan, tmp_path / "made", "ada", "bob")
    for member in members:
        member.hand_in(plan, 0.5)
    members[0].wait(lambda view: view.head.round == 1)
    return members


def test_a_copy_is_the_same_core(serving: CoreUnderTest, members: list[Member], tmp_path: Path) -> None:
    done = backups.backup(serving.root, tmp_path / "copy")
    assert done["copied"] == done["blobs"] > 5
    assert backups.backup(serving.root, tmp_path / "copy")["copied"] == 0
    assert (tmp_path / "copy" / "keys").stat().st_mode & 0o077 == 0
    serving.kill()
    shutil.rmtree(serving.root / "blobs")
    (serving.root / "core.sqlite").unlink()
    restored = serving.beside(tmp_path / "again")
    shutil.rmtree(restored.root)
    backups.restore(tmp_path / "copy", restored.root)
    restored.start()
    try:
        plan = operator.current_plan(restored.root, "run")
        for member in members:
            member.url = restored.url
            member.hand_in(plan, 0.25, round=2, state=member.view().head.state)
        assert members[0].wait(lambda view: view.head.round == 2).head.merges == 2
    finally:
        restored.close()


def test_from_sqlite_to_postgresql_and_back(
    serving: CoreUnderTest, members: list[Member], tmp_path: Path, postgres: Server
) -> None:
    before = operator.status(serving.root)
    backups.backup(serving.root, tmp_path / "copy")
    there = settings.load(operator.Home(serving.root)).model_copy(update={"database": postgres.database()})
    backups.restore(tmp_path / "copy", tmp_path / "pg", settings=there)
    backups.backup(tmp_path / "pg", tmp_path / "copy2")
    assert (tmp_path / "copy2" / "database.jsonl").read_bytes() == (
        tmp_path / "copy" / "database.jsonl"
    ).read_bytes()
    here = settings.make(port=0)
    backups.restore(tmp_path / "copy2", tmp_path / "back", settings=here)
    after = operator.status(tmp_path / "back")
    assert {**after, "url": None} == {**before, "url": None}


def test_a_copy_while_it_changes_is_of_one_moment(
    serving: CoreUnderTest, members: list[Member], tmp_path: Path
) -> None:
    stop = threading.Event()

    def invite() -> None:
        while not stop.is_set():
            operator.invite(serving.root, "cleo")

    busy = threading.Thread(target=invite)
    busy.start()
    try:
        backups.backup(serving.root, tmp_path / "copy")
    finally:
        stop.set()
        busy.join()
    assert backups.restore(tmp_path / "copy", tmp_path / "again")["events"] > 5


def _cut(copy: Path) -> None:
    rows = copy / "database.jsonl"
    rows.write_bytes(rows.read_bytes()[:-200])


def _no_end(copy: Path) -> None:
    rows = copy / "database.jsonl"
    rows.write_bytes(b"".join(rows.read_bytes().splitlines(keepends=True)[:-1]))


def _alter(copy: Path) -> None:
    rows = copy / "database.jsonl"
    lines = rows.read_bytes().splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if json.loads(line).get("table") == "events")
    rows.write_bytes(b"".join(lines).replace(lines[at], lines[at].replace(b'"at":"2', b'"at":"1')))


def _blob(copy: Path) -> None:
    blob = max(copy.glob("blobs/??/*"), key=lambda path: path.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.unlink()  # it may be a link to the core's own
    blob.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "error"),
    [
        (_cut, FormatError),
        (_no_end, FormatError),
        (_alter, FormatError),
        (_blob, HashMismatch),
        (lambda copy: (copy / "database.jsonl").unlink(), SettingsError),
        (lambda copy: (copy / "core.toml").unlink(), SettingsError),
        (lambda copy: None, None),
    ],
)
def test_a_harmed_copy_is_refused(
    serving: CoreUnderTest,
    members: list[Member],
    tmp_path: Path,
    harm: Callable[[Path], None],
    error: type[TapestryError] | None,
) -> None:
    backups.backup(serving.root, tmp_path / "copy")
    harm(tmp_path / "copy")
    if error is None:
        backups.restore(tmp_path / "copy", tmp_path / "again")  # positive control
        return
    with pytest.raises(error):
        backups.restore(tmp_path / "copy", tmp_path / "again")
    assert not (tmp_path / "again" / "core.toml").exists()


def test_where_a_copy_may_not_go(serving: CoreUnderTest, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter").write_text("dear")
    with pytest.raises(SettingsError, match="no backup"):
        backups.backup(serving.root, tmp_path / "full")
    other = CoreUnderTest(tmp_path / "other")
    backups.backup(other.root, tmp_path / "copy")
    with pytest.raises(SettingsError, match="another core"):
        backups.backup(serving.root, tmp_path / "copy")
    with pytest.raises(SettingsError, match="holds a core"):
        backups.restore(tmp_path / "copy", serving.root)
    used = settings.make(database=str(serving.root / "core.sqlite"))
    with pytest.raises(SettingsError, match="holds a core"):
        backups.restore(tmp_path / "copy", tmp_path / "again", settings=used)


def test_a_restore_that_was_cut_short_goes_on(
    serving: CoreUnderTest, members: list[Member], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backups.backup(serving.root, tmp_path / "copy")
    with monkeypatch.context() as patch:
        patch.setattr(backups, "render", lambda _: 1 / 0)  # the last step
        with pytest.raises(ZeroDivisionError):
            backups.restore(tmp_path / "copy", tmp_path / "again")
    backups.restore(tmp_path / "copy", tmp_path / "again")
    assert operator.status(tmp_path / "again")["consortium"] == serving.consortium
