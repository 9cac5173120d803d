"""The agent under a user of its own, whom the file system keeps from text: beside Landlock, or instead of it.

Needs root: the supervisor, trainer and gate stay what they are, and the agent's process becomes this user's.
What it works with in the node's home is given to that user, what it has no business with is shut.
"""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import tapestry
from tapestry.errors import SettingsError
from tapestry.host.users import User, ask
from tapestry.node import airlock
from tapestry.node.home import Home
from tapestry.node.settings import NodeSettings

_NOTHING_WRONG, _READS, _FIRST_UNREACHED = 0, 1, 2
_LISTED: Final = 0o2775
"""Of a folder that gate, trainer and agent share: what is made in it has the node's own group."""


def prepare(home: Home, given: NodeSettings) -> User | None:
    """The user of node.toml, once the home is as that user needs it; None where none is named.

    Raises:
        SettingsError: there is no such user, this is not root, or the user can read text.
    """
    name = given.node.agent_user
    if name is None:
        return None
    at, user = Home(home.root.absolute()), _find(name)
    corpus = given.corpus_path(at).resolve()
    if any(corpus.is_relative_to(folder.resolve()) for folder in (*_shared(at), at.keys)):
        raise _readable(name, corpus)
    _give(at, user)
    _check(at, given, name, user)
    return user


def _find(name: str) -> User:
    try:
        user = User.find(name)
    except ValueError as e:
        raise SettingsError(
            f"node.agent_user: this machine has no user {name}",
            hint="make one (useradd --system --no-create-home NAME), or give a number that nobody has",
        ) from e
    if user.uid == 0:
        raise SettingsError(
            f"node.agent_user: {name} is root, who reads everything", hint="name a user who owns nothing"
        )
    if os.geteuid() != 0:
        raise SettingsError(
            f"node.agent_user is {name}, and only root can start a process as another user",
            hint="do this as root, or leave agent_user out: Landlock needs no root (tapestry doctor)",
        )
    return user


def _shared(home: Home) -> tuple[Path, ...]:
    return home.blobs, home.egress, home.state, home.ledger, home.jobs, home.root / "status"


def _give(home: Home, user: User) -> None:
    own = os.getegid()
    home.make_folders()
    for folder in (home.train, home.cache, home.approvals):
        folder.chmod(0o700)
    home.logs.chmod(0o711)
    airlock.prepare(home)
    replay = home.logs / "replay.log"
    replay.touch()
    for log in home.logs.iterdir():
        if stat.S_ISREG(log.lstat().st_mode):
            log.chmod(0o600)
    with suppress(FileNotFoundError):
        home.canaries.chmod(0o600)
    for path in (home.egress_messages, replay):
        os.chown(path, user.uid, user.gid, follow_symlinks=False)
    _make_blob_folders(home.blobs)
    for folder in _shared(home):
        _give_tree(folder.resolve(), user.uid, own, folder_mode=_LISTED)
    _give_tree(home.keys.resolve(), user.uid, user.gid, folder_mode=0o700)


def _make_blob_folders(blobs: Path) -> None:
    """All of them: one that the gate makes later would be the gate's alone."""
    from tapestry.storage.blobs import BlobStore

    BlobStore.open(blobs)
    for number in range(256):
        (blobs / f"{number:02x}").mkdir(exist_ok=True)


def _give_tree(top: Path, uid: int, gid: int, *, folder_mode: int) -> None:
    """With all below it, but for what has a second name, which may lie elsewhere. Links are not followed."""
    for _, _, names, folder in os.fwalk(top, follow_symlinks=False):
        os.fchown(folder, uid, gid)
        os.fchmod(folder, folder_mode)
        for name in names:
            with suppress(FileNotFoundError):
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_uid != uid:
                    os.chown(name, uid, gid, dir_fd=folder, follow_symlinks=False)


def _check(home: Home, given: NodeSettings, name: str, user: User) -> None:
    """By trying, as that user."""
    text = airlock.known_text(home, given)
    logs = [log for log in home.logs.iterdir() if log.name != "replay.log"]
    needed = [home.root.parent, home.settings, *home.keys.glob("*.key"), *home.root.glob("ca-*.pem")]
    needed += [path for path in (home.consortium,) if path.exists()]
    needed += [Path(sys.executable), Path(tapestry.__file__)]
    wanted = [os.X_OK if path.is_dir() else os.R_OK for path in needed]

    def answer() -> int:
        if airlock.reads_text(home, given, [*text, *logs, home.canaries]):
            return _READS
        missed = (at for at, path in enumerate(needed) if not os.access(path, wanted[at]))
        return next((_FIRST_UNREACHED + at for at in missed), _NOTHING_WRONG)

    try:
        found = ask(user, answer)
    except OSError as e:
        raise SettingsError(
            f"node.agent_user: no process can be started as {name} ({user}) here",
            hint="root lacks the right to change users, as in some containers (CAP_SETUID, CAP_SETGID)",
        ) from e
    if found == _READS:
        raise _readable(name, given.corpus_path(home))
    if found >= _FIRST_UNREACHED:
        raise SettingsError(
            f"node.agent_user: {name} cannot reach {needed[found - _FIRST_UNREACHED]}, which the agent needs",
            hint="let everybody pass through it or the folders above it (chmod o+x), or read it; what lies "
            "in root's own folder nobody else can start",
        )


def _readable(name: str, corpus: Path) -> SettingsError:
    return SettingsError(
        f"node.agent_user: {name} can read the text in {corpus}, or what the trainer keeps of it",
        hint=f"shut it: chmod -R o-rwx {corpus}; nor may it belong to {name} or lie in a folder of the agent",
    )
