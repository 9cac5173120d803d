"""Files: whole or not at all, under kills, a full disk and two holders."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestry.errors import ArtifactError, Busy, Conflict, DiskFull, InputError, TooLarge
from tapestry.host import files
from tests.full_disk import run_on_small_disk


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def run(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=4096), st.binary(max_size=4096), st.booleans())
def test_write_atomic_puts_all_bytes_and_replaces(
    tmp_path_factory: pytest.TempPathFactory, first: bytes, second: bytes, durable: bool
) -> None:
    folder = tmp_path_factory.mktemp("w")
    path = folder / "a.json"
    for data in (first, second):
        files.write_atomic(path, data, durable=durable)
        assert path.read_bytes() == data
        assert names(folder) == {"a.json"}


def test_write_atomic_takes_any_contiguous_view_and_a_long_name(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 127)
    files.write_atomic(str(path), memoryview(b"abcd").cast("H"))
    assert path.read_bytes() == b"abcd"


def test_mode_is_cut_by_the_umask_and_a_secret_is_private_whatever_it_is(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from tapestry.host import files\n"
        "os.umask(int(sys.argv[2], 8)); folder = Path(sys.argv[1])\n"
        "files.write_atomic(folder / 'plain', b''); files.private_write(folder / 'secret', b'')"
    )
    for umask, plain in (("000", 0o644), ("077", 0o600), ("777", 0o000)):
        folder = tmp_path / umask
        folder.mkdir()
        assert run(code, str(folder), umask).returncode == 0
        assert stat.S_IMODE((folder / "plain").stat().st_mode) == plain
        assert stat.S_IMODE((folder / "secret").stat().st_mode) == 0o600


def test_a_secret_is_never_replaced_unless_that_is_meant(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    files.private_write(path, b"one")
    with pytest.raises(InputError, match=r"node\.key"):
        files.private_write(path, b"two")
    assert path.read_bytes() == b"one"
    assert names(tmp_path) == {"node.key"}
    files.private_write(path, b"three", replace=True)
    assert path.read_bytes() == b"three"
    assert path.stat().st_nlink == 1


@pytest.mark.parametrize(
    ("point", "expected"), [("file.before-rename", b"old"), ("file.after-rename", b"new")]
)
def test_a_writer_killed_at_a_failpoint_leaves_old_or_new_and_its_rest_is_cleaned(
    tmp_path: Path, point: str, expected: bytes
) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(b"old")
    code = (
        "import sys; from tapestry.host.files import write_atomic\n"
        "write_atomic(sys.argv[1], b'unsafe', durable=False); write_atomic(sys.argv[1], b'old')\n"
        "write_atomic(sys.argv[1], b'new')"
    )
    done = run(code, str(path), TAPESTRY_FAILPOINT=f"{point}:2")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert path.read_bytes() == expected
    left = names(tmp_path) - {"state.json"}
    assert len(left) == (1 if expected == b"old" else 0)
    assert files.clean_temporaries(tmp_path) == len(left)
    assert names(tmp_path) == {"state.json"}
    assert run(code, str(path)).returncode == 0
    assert path.read_bytes() == b"new"


def test_clean_temporaries_spares_the_living_and_what_is_not_ours(tmp_path: Path) -> None:
    ours = [
        f".a.{os.getpid()}-{files._process}-7.tmp",  # in flight here
        f".a.{os.getppid()}-{'0' * 16}-7.tmp",  # in flight in a live process
    ]
    others = ["a.tmp", ".a.tmp", "a.12-0000000000000000-1.tmp", ".a.12-000000000000000-1.tmp", "plain"]
    stale = [
        f".a.{os.getpid()}-{'0' * 16}-7.tmp",  # an earlier process had our id
        f".b.c.{(1 << 22) + 1}-{'0' * 16}-0.tmp",
    ]
    for name in ours + others + stale:
        (tmp_path / name).write_bytes(b"")
    folder = tmp_path / f".d.{(1 << 22) + 1}-{'0' * 16}-0.tmp"
    folder.mkdir()
    assert files.clean_temporaries(tmp_path) == len(stale)
    assert names(tmp_path) == {*ours, *others, folder.name}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["write", "fsync", "open"])
def test_no_space_is_disk_full_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: str
) -> None:
    path = tmp_path / "head.json"
    path.write_bytes(b"old")

    def full(*_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(files.os, call, full)
        with pytest.raises(DiskFull, match=r"head\.json") as raised:
            files.write_atomic(path, b"new")
    assert raised.value.hint == "free space and run the same command again; nothing was lost"
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"head.json"}


def test_another_failure_is_not_disk_full(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.write_atomic(tmp_path / "missing" / "a", b"")


def test_a_really_full_disk(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from tapestry.errors import DiskFull; from tapestry.host import files\n"
        "disk = Path(sys.argv[1]); files.write_atomic(disk / 'a', b'x' * 40000)\n"
        "for write in (files.write_atomic, files.private_write):\n"
        "  try: write(disk / 'b', b'x' * 40000); print('written')\n"
        "  except DiskFull as e: print('full', str(disk / 'b') in str(e))\n"
        "print(sorted(p.name for p in disk.iterdir()), len((disk / 'a').read_bytes()))\n"
        "files.overwrite(disk / 'a', b'y' * 40000); print((disk / 'a').read_bytes() == b'y' * 40000)\n"
        "files.write_atomic(disk / 'b', b'x' * 4000); print('fits')"
    )
    told = run_on_small_disk(tmp_path, code, kib=64)
    assert told == "full True\nfull True\n['a'] 40000\nTrue\nfits\n"


def test_overwrite_keeps_what_has_another_size(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"four")
    files.overwrite(path, b"fives")
    assert path.read_bytes() == b"four"
    files.overwrite(path, b"FOUR")
    assert path.read_bytes() == b"FOUR"


def test_read_limited_reads_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 100)
    assert files.read_limited(path, 100) == b"x" * 100
    with pytest.raises(TooLarge, match="99 bytes"):
        files.read_limited(path, 99)
    with pytest.raises(FileNotFoundError):
        files.read_limited(tmp_path / "b", 1)
    path.write_bytes(b"")
    assert files.read_limited(path, 0) == b""


def test_read_limited_refuses_what_is_no_file_without_waiting(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("file")
    for name in ("pipe", "."):
        with pytest.raises(ArtifactError, match="regular"):
            files.read_limited(tmp_path / name, 10)
    assert files.read_limited(tmp_path / "link", 10) == b"x"
    with pytest.raises(ArtifactError, match="regular"):
        files.read_limited(tmp_path / "link", 10, follow_symlinks=False)


def test_append_puts_more_behind_what_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a call that was cut short left goes; the name of a new file is on disk as well."""
    path = tmp_path / "lines"
    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{fd}").readlink().relative_to(tmp_path)))
        real(fd)

    monkeypatch.setattr(files.os, "fsync", fsync)
    files.append(path, 0, b"one\n")
    assert synced == ["lines", "."]
    path.write_bytes(b"one\ntwo, cut")
    files.append(path, 4, b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"
    assert synced == ["lines", ".", "lines"]
    with pytest.raises(OSError, match="less than 9 bytes"):
        files.append(path, 9, b"three\n")


def test_publish_dir_gives_the_name_after_everything_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary, final = tmp_path / "out.tmp", tmp_path / "out"
    (temporary / "sub").mkdir(parents=True)
    (temporary / "a").write_bytes(b"a")
    (temporary / "sub" / "b").write_bytes(b"b")
    (temporary / "link").symlink_to("/nowhere")
    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(f"{Path(f'/proc/self/fd/{fd}').readlink().relative_to(tmp_path)} {final.exists()}")
        real(fd)

    monkeypatch.setattr(files.os, "fsync", fsync)
    files.publish_dir(temporary, final)
    assert sorted(synced[:-1]) == [
        "out.tmp False",
        "out.tmp/a False",
        "out.tmp/sub False",
        "out.tmp/sub/b False",
    ]
    assert synced[-1] == ". True"
    assert names(tmp_path) == {"out"}
    assert (final / "sub" / "b").read_bytes() == b"b"


def test_publish_dir_does_not_touch_what_is_there(tmp_path: Path) -> None:
    temporary, final = tmp_path / "out.tmp", tmp_path / "out"
    for folder in (temporary, final):
        folder.mkdir()
        (folder / "a").write_text(folder.name)
    with pytest.raises(Conflict, match="out exists"):
        files.publish_dir(temporary, final)
    assert (final / "a").read_text() == "out"
    assert temporary.exists()


def test_publish_dir_on_a_full_disk_removes_the_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "out.tmp"
    temporary.mkdir()
    (temporary / "a").write_bytes(b"a")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(DiskFull):
        files.publish_dir(temporary, tmp_path / "out")
    assert names(tmp_path) == set()


def test_fsync_accepts_a_file_system_with_nothing_to_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = iter([errno.EINVAL, errno.EIO])

    def fsync(fd: int) -> None:
        raise OSError(next(codes), "")

    monkeypatch.setattr(files.os, "fsync", fsync)
    files.fsync_dir(tmp_path)
    with pytest.raises(OSError, match=str(errno.EIO)):
        files.fsync_dir(tmp_path)


def test_a_second_holder_is_told_who_holds_it(tmp_path: Path) -> None:
    code = (
        "import sys; from tapestry.host.files import Lock\n"
        "with Lock(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(Busy) as raised:
            files.Lock(tmp_path).acquire()
        assert str(tmp_path) in raised.value.message
        assert f"process {holder.pid}" in raised.value.message
    finally:
        holder.kill()
        holder.communicate()
    with files.Lock(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"


def test_a_lock_excludes_in_one_process_too_and_is_free_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "core.lock"
    lock = files.Lock(path)
    with lock:
        with pytest.raises(Busy):
            files.Lock(path).acquire()
        with pytest.raises(RuntimeError):
            lock.acquire()
    lock.release()
    with files.Lock(path):
        path.write_bytes(b"")
        with pytest.raises(Busy, match="another process"):
            files.Lock(path).acquire()


def test_a_child_does_not_inherit_a_lock(tmp_path: Path) -> None:
    with files.Lock(tmp_path):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with files.Lock(tmp_path):
            pass
    finally:
        child.communicate(b"\n")


def test_wait_for_answers_or_gives_up() -> None:
    answers = iter([None, "", "yes"])
    assert files.wait_for(lambda: next(answers), poll_s=0.001) == "yes"
    asked = []
    assert files.wait_for(lambda: asked.append(1), poll_s=0.001, timeout_s=0.02) is None
    assert len(asked) > 1
    assert files.wait_for(lambda: 0, timeout_s=0) == 0


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    first, second = files.Lock(tmp_path), files.Lock(tmp_path)
    first.acquire()
    with pytest.raises(Busy):
        second.wait(0.1)
    threading.Timer(0.2, first.release).start()
    second.wait(10.0)
    second.release()
