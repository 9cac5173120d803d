"""Defences against kills and power cuts, at nodes and core."""

from __future__ import annotations

import functools
import os
import stat
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from tapestry.host import files
from tapestry.storage import blobs
from tapestry.storage.blobs import BlobStore
from tapestry.storage.receiver import Receiver
from tests.sim.bugs.kind import KILLS, POWER, ROT, Bug, Places

if TYPE_CHECKING:
    from tests.sim.world import World


def _written_in_place(world: World) -> Places:
    def write(path: Path | str, data: bytes, *, mode: int = 0o644, durable: bool = True) -> None:
        with files.full_disk(path):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
            try:
                os.write(fd, data)
                os.fsync(fd)
            finally:
                os.close(fd)

    return {(files, "write_atomic"): write}


def _renamed_unsynced(world: World) -> Places:
    return {(files, "write_atomic"): functools.partial(_unsynced, files.write_atomic)}


def _unsynced(write: Any, path: Any, data: Any, **more: Any) -> None:
    write(path, data, **{**more, "durable": False})


def _folder_unsynced(world: World) -> Places:
    return {(files, "fsync_dir"): lambda path: None}


def _appended_unsynced(world: World) -> Places:
    append, fsync_dir = files.append, files.fsync_dir

    def nameless(path: Path | str, offset: int, data: bytes) -> None:
        files.fsync_dir = lambda path: None
        try:
            append(path, offset, data)
        finally:
            files.fsync_dir = fsync_dir

    return {(files, "append"): nameless}


def _blobs_unsynced(world: World) -> Places:
    return {(BlobStore, "sync"): lambda self, shas: None}


def _blob_names_unsynced(world: World) -> Places:
    fsync = blobs.fsync_path

    def of_files(path: Path) -> None:
        if not stat.S_ISDIR(path.stat().st_mode):
            fsync(path)

    return {(blobs, "fsync_path"): of_files}


def _own_delta_unsynced(world: World) -> Places:
    put = BlobStore.put

    def lazy(self: BlobStore, data: Any, durable: bool = True) -> str:
        return put(self, data, False)

    return {(BlobStore, "put"): lazy}


def _received_unsynced(world: World) -> Places:
    start = Receiver.__init__

    def lazy(self: Receiver, store: Any, expected: Any, *, durable: bool) -> None:
        start(self, store, expected, durable=False)

    return {(Receiver, "__init__"): lazy, (BlobStore, "sync"): lambda self, shas: None}


def _read_unverified(world: World) -> Places:
    return {(BlobStore, "_check"): lambda self, sha, actual: None}


def _one_temporary_name(world: World) -> Places:
    return {(blobs, "secrets"): SimpleNamespace(token_hex=lambda size: "0" * 2 * size)}


ON_DISK: Final = (
    Bug(
        name="written-in-place",
        breaks="files are written in place",
        faults=KILLS,
        seed=1,
        places=_written_in_place,
    ),
    Bug(
        name="renamed-unsynced",
        breaks="a file is renamed before it is synced",
        faults=POWER,
        places=_renamed_unsynced,
    ),
    Bug(
        name="folder-unsynced",
        breaks="a rename is not synced",
        faults=POWER,
        seed=10,
        places=_folder_unsynced,
    ),
    Bug(
        name="appended-unsynced",
        breaks="the name of a file that is appended to is not synced when it is new",
        faults=replace(POWER, crash=0.02, cuts_s=0.0),
        seed=50,
        places=_appended_unsynced,
    ),
    Bug(
        name="blobs-unsynced",
        breaks="a contribution's blobs are not synced before it is acknowledged",
        faults=POWER,
        seed=1,
        places=_blobs_unsynced,
    ),
    Bug(
        name="blob-names-unsynced",
        breaks="names of blobs are not synced",
        faults=POWER,
        places=_blob_names_unsynced,
    ),
    Bug(
        name="own-delta-unsynced",
        breaks="a node's own delta is not on disk when it is signed",
        faults=POWER,
        seed=0,
        places=_own_delta_unsynced,
    ),
    Bug(
        name="received-unsynced",
        breaks="received blobs are not synced",
        faults=POWER,
        seed=1,
        places=_received_unsynced,
    ),
    Bug(name="read-unverified", breaks="what is read is not hashed", faults=ROT, places=_read_unverified),
    Bug(
        name="one-temporary-name",
        breaks="two writers share a file",
        faults=KILLS,
        seed=0,
        places=_one_temporary_name,
    ),
)
