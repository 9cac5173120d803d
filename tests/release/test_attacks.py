"""The attacks that TUF is to stop, on the client that `tapestry release fetch` calls; each with its control.

Whoever attacks serves the repository, from a folder or over HTTP; where it says so, with a stolen key. The
control is the same repository without the attack, or the same attack on a client that lacks what stops it.
"""

from __future__ import annotations

import datetime
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from securesystemslib.formats import encode_canonical

from tapestry.errors import InputError, NotFound, ReleaseError, TapestryError
from tapestry.identity.keys import KeyPair
from tapestry.release import client
from tapestry.release.published import LIST
from tests.release.support import BASE, Forge, now

BOTH = pytest.mark.parametrize("source", ["folder", "web"], indirect=True)


class Consumer:
    """Somebody who fetches, and has its own memory."""

    def __init__(self, source: str, root: bytes, home: Path) -> None:
        self.source, self.root, self.home = source, root, home
        self._got = 0

    def fresh(self) -> Consumer:
        """Another one, who has seen nothing."""
        home = self.home.with_name(self.home.name + "+")
        return Consumer(self.source, self.root, home)

    def fetch(self, name: str | None = BASE, as_of: datetime.datetime | None = None) -> Path:
        self._got += 1
        out = self.home / f"out-{self._got}"
        client.fetch(self.source, out, root=self.root, trust=self.home / "trust", name=name, as_of=as_of)
        assert (out / "model.safetensors").is_file()
        return out

    def refused(self, rule: str, name: str | None = BASE) -> ReleaseError:
        with pytest.raises(ReleaseError) as caught:
            self.fetch(name)
        assert caught.value.rule == rule, caught.value.message
        assert caught.value.hint and caught.value.exit_code == 3
        assert not (self.home / f"out-{self._got}").exists()
        return caught.value


@pytest.fixture
def consumer(source: str, repo: Forge, tmp_path: Path) -> Consumer:
    return Consumer(source, repo.root, tmp_path / "home")


def restore(repo: Forge, kept: Forge) -> None:
    """The mirror shows what it showed then."""
    shutil.rmtree(repo.at)
    shutil.copytree(kept.at, repo.at)


@BOTH
def test_an_untouched_repository_is_fetched_and_fetched_again(repo: Forge, consumer: Consumer) -> None:
    consumer.fetch()
    consumer.fetch(None)
    repo.vouch()
    consumer.fetch()


def test_other_clients_find_the_ids_they_reckon(repo: Forge) -> None:
    """Some hold a key's id against the key; so nothing of ours is inside of it."""
    for name, key in repo.now.root.signed.keys.items():
        assert name == hashlib.sha256(encode_canonical(key.to_dict()).encode()).hexdigest()


# -- rollback -----------------------------------------------------------------------------------------


@BOTH
def test_rollback_of_everything(repo: Forge, consumer: Consumer, tmp_path: Path) -> None:
    old = repo.copy(tmp_path / "old")
    repo.vouch()
    consumer.fetch()
    restore(repo, old)
    assert "rolling back" in consumer.refused("rollback").message
    consumer.fresh().fetch()


def test_rollback_of_the_snapshot_by_the_operators_key(repo: Forge, consumer: Consumer) -> None:
    old, number = (repo.at / f"{repo.now.snapshot}.snapshot.json").read_bytes(), repo.now.snapshot
    repo.vouch()
    consumer.fetch()
    repo.point(old, number, version=repo.now.timestamp + 1)
    consumer.refused("rollback")
    consumer.fresh().fetch()


def test_rollback_of_the_targets_by_the_operators_key(repo: Forge, consumer: Consumer) -> None:
    """A release that was revoked is shown as in force once more."""
    before = repo.now
    old = before.targets_bytes, before.targets.signed.version
    repo.vouch(repo.targets())
    consumer.fetch()
    repo.vouch(old)
    consumer.refused("rollback")
    consumer.fresh().fetch()


@BOTH
def test_rollback_of_the_holders(repo: Forge, consumer: Consumer, tmp_path: Path) -> None:
    """Holders and operator were replaced, since their keys were stolen; the thief goes on with the old
    list."""
    old = repo.copy(tmp_path / "old")
    new = {name: KeyPair.generate() for name in repo.holders}
    before, online = repo.two(), KeyPair.generate()
    repo.rotate(new, online, by=[*before, *list(new.values())[:2]])
    repo.vouch(repo.targets())
    consumer.fetch()
    old.vouch(old.targets(version=9), snapshot_version=9, timestamp_version=9)
    restore(repo, old)
    consumer.refused("threshold")
    consumer.fresh().fetch()


# -- freeze -------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("what", ["timestamp", "snapshot", "targets", "root"])
def test_freeze(repo: Forge, consumer: Consumer, what: str) -> None:
    """What has run out is refused, though it is signed as it must be. Control: a clock before that day."""
    if what == "timestamp":
        repo.vouch(timestamp_days=-1)
    elif what == "snapshot":
        repo.vouch(snapshot_days=-1)
    elif what == "targets":
        repo.vouch(repo.targets(days=-1))
    else:
        repo.rotate(repo.holders, repo.online, by=repo.two(), days=-1)
    assert "freezing" in consumer.refused("freeze").message
    consumer.fetch(as_of=now() - datetime.timedelta(days=2))
    if what != "root":
        repo.vouch(repo.targets())
        consumer.fetch()


def test_a_mirror_that_stands_still_is_found_out(repo: Forge, consumer: Consumer) -> None:
    repo.vouch(timestamp_days=1 / 86_400)
    consumer.fetch(as_of=now() - datetime.timedelta(seconds=5))
    with pytest.raises(ReleaseError) as caught:
        consumer.fetch(as_of=now() + datetime.timedelta(seconds=5))
    assert caught.value.rule == "freeze"


# -- fast forward -------------------------------------------------------------------------------------


@BOTH
def test_fast_forward_is_undone_by_a_new_key(repo: Forge, consumer: Consumer, tmp_path: Path) -> None:
    """A thief of the operator's key counts up to the last number there is, so that nothing can be newer."""
    honest = repo.copy(tmp_path / "honest")
    last = (1 << 31) - 1
    repo.vouch(snapshot_version=last, timestamp_version=last)
    consumer.fetch()
    honest.vouch()
    restore(repo, honest)
    consumer.refused("rollback")  # what the attack is for; and the control of what comes now
    fresh = KeyPair.generate()
    repo.rotate(repo.holders, fresh, by=repo.two())
    repo.vouch()
    consumer.fetch()


# -- mix and match ------------------------------------------------------------------------------------


@pytest.mark.parametrize("hashes", [True, False])
def test_mix_and_match_of_targets(repo: Forge, consumer: Consumer, hashes: bool) -> None:
    """Two lists of one version, both signed by enough holders; the operator has vouched for the other one."""
    good, version = repo.targets()
    repo.vouch((good, version), hashes=hashes)
    other, _ = repo.targets(version=version, days=200)
    assert other != good
    if hashes:
        consumer.refused("bytes")
        (repo.at / f"{version}.targets.json").write_bytes(good)
    consumer.fetch()  # without hashes in the snapshot nobody would notice


@BOTH
def test_mix_and_match_of_snapshots(repo: Forge, consumer: Consumer) -> None:
    repo.vouch()
    path = repo.at / f"{repo.now.snapshot}.snapshot.json"
    good = path.read_bytes()
    path.write_bytes((repo.at / f"{repo.now.snapshot - 1}.snapshot.json").read_bytes())
    consumer.refused("bytes")
    path.write_bytes(good)
    consumer.fetch()


@BOTH
def test_mix_and_match_of_files_of_two_releases(repo: Forge, consumer: Consumer) -> None:
    """Enough holders have signed a list in which one file is another than release.json names."""
    files = repo.now.files
    data = b"{}"
    sha = hashlib.sha256(data).hexdigest()
    name = f"{BASE}/README.md"
    (repo.folder / "targets" / BASE / f"{sha}.README.md").write_bytes(data)
    repo.vouch(repo.targets({**files, name: (sha, len(data))}))
    consumer.refused("mix-and-match")
    repo.vouch(repo.targets(files))
    consumer.fetch()


# -- threshold, roles and keys ------------------------------------------------------------------------


def forged_signature(repo: Forge) -> list[KeyPair]:
    """One holder twice: a list of metadata in which a key stands twice cannot be written by the library."""
    return [repo.two()[0], repo.two()[0]]


@pytest.mark.parametrize(
    "by",
    [
        lambda repo: repo.two()[:1],
        forged_signature,
        lambda repo: [repo.two()[0], KeyPair.generate()],
        lambda repo: [repo.two()[0], repo.online],
        lambda repo: [repo.online],
        lambda _repo: [KeyPair.generate(), KeyPair.generate()],
    ],
    ids=["one", "one-twice", "one-and-a-stranger", "one-and-the-operator", "operator", "strangers"],
)
def test_threshold(repo: Forge, consumer: Consumer, by: Callable[[Forge], list[KeyPair]]) -> None:
    repo.vouch(repo.targets(by=by(repo)))
    assert "too few signatures" in consumer.refused("threshold").message
    repo.vouch(repo.targets())
    consumer.fetch()


def test_a_signature_stands_once(repo: Forge, consumer: Consumer, tmp_path: Path) -> None:
    """The same signature under the same key, twice in the file."""
    good = repo.copy(tmp_path / "good")
    data, version = repo.targets(by=repo.two()[:1])
    head, _, tail = data.partition(b'"signatures":[')
    one = tail[: tail.index(b"}") + 1]
    twice = head + b'"signatures":[' + one + b"," + tail
    (repo.at / f"{version}.targets.json").write_bytes(twice)
    repo.vouch((twice, version))
    consumer.refused("metadata")
    restore(repo, good)
    repo.vouch(repo.targets(), timestamp_version=9, snapshot_version=9)
    consumer.fetch()


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_a_stranger_vouches(repo: Forge, consumer: Consumer, role: str) -> None:
    if role == "timestamp":
        repo.vouch(online=KeyPair.generate())
    else:
        repo.vouch()
        number = repo.now.snapshot
        signed = repo.now  # the snapshot again, by a stranger, and the operator's own word for it
        snapshot = client.roles.snapshot_of(
            signed.targets_bytes, signed.targets.signed.version, version=number + 1, expires=repo.in_days(9)
        )
        data = repo.write(f"{number + 1}.snapshot.json", snapshot, [KeyPair.generate()])
        repo.point(data, number + 1, version=signed.timestamp + 1)
    consumer.refused("threshold")
    repo.vouch()
    consumer.fetch()


def test_metadata_of_another_role(repo: Forge, consumer: Consumer, tmp_path: Path) -> None:
    """Holders sign roots and lists of targets with the same keys; one does not pass for the other."""
    good, root = repo.copy(tmp_path / "good"), repo.now.root.signed
    version = repo.now.targets.signed.version + 1
    data = repo.write(f"{version}.targets.json", root, repo.two())
    repo.vouch((data, version))
    consumer.refused("metadata")
    restore(repo, good)
    repo.vouch(repo.targets(), timestamp_version=9, snapshot_version=9)
    consumer.fetch()


@pytest.mark.parametrize(
    ("by", "rule"),
    [
        ("new", "threshold"),
        ("old", "threshold"),
        ("one-old", "threshold"),
        ("both", None),
    ],
)
def test_key_rotation(repo: Forge, consumer: Consumer, by: str, rule: str | None) -> None:
    """Enough of the holders before and enough of those after must sign a new list of holders."""
    old, new = repo.two(), {f"new-{at}": KeyPair.generate() for at in range(3)}
    fresh = list(new.values())[:2]
    signers = {"new": fresh, "old": old, "one-old": [*old[:1], *fresh], "both": [*old, *fresh]}[by]
    consumer.fetch()
    kept = dict(repo.holders)
    repo.rotate(new, repo.online, by=signers)
    repo.vouch(repo.targets())
    if rule is not None:
        consumer.refused(rule)
        (repo.at / "2.root.json").unlink()
        repo.holders = kept
        repo.vouch(repo.targets())
    consumer.fetch()


@BOTH
def test_a_replaced_holder_counts_no_more(repo: Forge, consumer: Consumer) -> None:
    old = list(repo.holders.values())
    new = {**repo.holders, "cedar": KeyPair.generate()}
    repo.rotate(new, repo.online, by=[old[0], old[1]])
    repo.vouch(repo.targets(by=[old[0], old[2]]))
    consumer.refused("threshold")
    repo.vouch(repo.targets(by=[old[0], new["cedar"]]))
    consumer.fetch()


@pytest.mark.parametrize("number", [1, 3])
def test_a_root_of_another_version(repo: Forge, consumer: Consumer, number: int) -> None:
    """Version 1 under the name of version 2, or one that leaves one out."""
    repo.rotate(repo.holders, repo.online, by=repo.two(), version=number)
    consumer.refused("rollback")
    (repo.at / "2.root.json").unlink()
    repo.rotate(repo.holders, repo.online, by=repo.two())
    consumer.fetch()


def test_a_root_of_others(repo: Forge, consumer: Consumer, tmp_path: Path) -> None:
    """Somebody else's repository, made just as it should be, under the same address."""
    strangers = {name: KeyPair.generate() for name in repo.holders}
    theirs = repo.copy(tmp_path / "theirs")
    theirs.rotate(strangers, KeyPair.generate(), by=list(strangers.values())[:2])
    (theirs.at / "2.root.json").rename(theirs.at / "1.root.json")
    theirs.vouch(theirs.targets())
    good = repo.copy(tmp_path / "good")
    restore(repo, theirs)
    consumer.refused("threshold")
    restore(repo, good)
    consumer.fetch()


# -- bytes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", [LIST, f"{BASE}/release.json", f"{BASE}/model.safetensors", f"{BASE}/README.md"]
)
@BOTH
@pytest.mark.parametrize("how", ["flipped", "longer", "cut", "gone"])
def test_wrong_bytes(repo: Forge, consumer: Consumer, path: str, how: str) -> None:
    target = repo.target(path)
    good = target.read_bytes()
    if how == "gone":
        target.unlink()
        with pytest.raises(NotFound) as caught:
            consumer.fetch()
        assert caught.value.hint
    else:
        bad = {"flipped": good[:-1] + bytes([good[-1] ^ 1]), "longer": good + b" ", "cut": good[:-1]}[how]
        target.write_bytes(bad)
        consumer.refused("endless" if how == "longer" else "bytes")
    target.write_bytes(good)
    consumer.fetch()


@BOTH
@pytest.mark.parametrize(
    ("name", "limit"), [("timestamp.json", 16_384), ("2.root.json", 512_000), ("snapshot", None)]
)
def test_endless_metadata(repo: Forge, consumer: Consumer, name: str, limit: int | None) -> None:
    path = repo.at / (f"{repo.now.snapshot}.snapshot.json" if name == "snapshot" else name)
    good = path.read_bytes() if path.exists() else None
    path.write_bytes(b" " * (limit or path.stat().st_size) + b" ")
    consumer.refused("endless")
    path.unlink() if good is None else path.write_bytes(good)
    consumer.fetch()


def test_a_file_that_nobody_signed(repo: Forge, consumer: Consumer) -> None:
    """It lies among the targets, and is not fetched; nor is a release that is on no list."""
    (repo.folder / "targets" / BASE / f"{'0' * 64}.evil.py").write_text("import os\n")
    out = consumer.fetch()
    assert not list(out.rglob("*evil*"))
    with pytest.raises(NotFound):
        consumer.fetch("evil")


def test_a_root_that_is_none(repo: Forge, source: str, tmp_path: Path) -> None:
    for data in (b"", b"{}", repo.now.targets_bytes, repo.root.replace(b'"threshold":2', b'"threshold":1')):
        with pytest.raises(InputError) as caught:
            Consumer(source, data, tmp_path / "none").fetch()
        assert caught.value.hint
    Consumer(source, repo.root, tmp_path / "one").fetch()


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b'{"signed":{},"signatures":[]}', b"\xff\x00" * 99]
)
def test_metadata_that_is_none(repo: Forge, consumer: Consumer, data: bytes) -> None:
    good = (repo.at / "timestamp.json").read_bytes()
    (repo.at / "timestamp.json").write_bytes(data)
    with pytest.raises(TapestryError) as caught:
        consumer.fetch()
    assert isinstance(caught.value, ReleaseError)
    (repo.at / "timestamp.json").write_bytes(good)
    consumer.fetch()
