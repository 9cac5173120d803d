"""What a holder refuses to sign, and an operator to publish; the way of a release from vote to revocation."""

from __future__ import annotations

import datetime
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, Targets

from tapestry.errors import Conflict, KeyRefused, NotFound, Refused, ReleaseError, SignatureError
from tapestry.governance.proposal import ChangeCharter, Expel
from tapestry.host import files
from tapestry.identity.keys import KeyPair
from tapestry.release import checking, client, derived, holder, published, roles
from tapestry.release.checking import Checked
from tests.release.support import BASE, HOLDERS, OPEN, World, now


@pytest.fixture(scope="module")
def drafted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Checked]]:
    """An accepted release, and its draft; not to be changed by tests."""
    made = World(tmp_path_factory.mktemp("drafts") / "core", **OPEN)
    with made.core:
        made.trained()
        made.accepted()
        yield made, made.draft()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Of one test alone."""
    made = World(tmp_path / "core")
    with made.core:
        made.trained()
        yield made


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One release published, and the draft of a second; not to be changed by tests."""
    made = World(tmp_path_factory.mktemp("released") / "core", **OPEN)
    with made.core:
        made.trained()
        made.released()
        made.accepted("base-2", state=made.state().plan.initial_state)
        made.draft("base-2")
        yield made


def fetched(world: World, to: str, name: str | None = None) -> client.Fetched:
    root = (world.repository / "metadata" / "1.root.json").read_bytes()
    trust = world.folder / "trust"
    return client.fetch(str(world.repository), world.folder / to, root=root, trust=trust, name=name)


def spoil(path: str, at: int = -1) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        data = bytearray((folder / path).read_bytes())
        data[at] ^= 1
        (folder / path).write_bytes(data)

    return change


def size_by(more: int) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "model/model.safetensors"
        os.truncate(path, path.stat().st_size + more)

    return change


def rewrite(change: Callable[[Targets], object]) -> Callable[[Path], object]:
    def spoiled(folder: Path) -> None:
        metadata: Metadata[Any] = Metadata.from_bytes((folder / derived.TARGETS).read_bytes())
        change(metadata.signed)
        (folder / derived.TARGETS).write_bytes(metadata.to_bytes())

    return spoiled


def later(signed: Any) -> None:
    signed.expires += datetime.timedelta(days=400)


def other_roots(folder: Path) -> None:
    """The operator puts a key of its own in the place of a holder's."""
    metadata: Metadata[Any] = Metadata.from_bytes((folder / derived.ROOT).read_bytes())
    members = {name: str(metadata.signed.keys[each].keyval["public"]) for each, name in
               roles.members_of(metadata.signed).items()}  # fmt: skip
    root = metadata.signed
    changed = roles.root_of(
        {**members, HOLDERS[0]: KeyPair.generate().public_key},
        2,
        roles.online_key(root),
        consortium=root.unrecognized_fields[roles.CONSORTIUM],
        version=1,
        expires=root.expires,
    )
    (folder / derived.ROOT).write_bytes(Metadata(changed).to_bytes())


def fewer_signatures(folder: Path) -> None:
    metadata: Metadata[Any] = Metadata.from_bytes((folder / derived.ROOT).read_bytes())
    metadata.signed.roles["targets"].threshold = 1
    (folder / derived.ROOT).write_bytes(metadata.to_bytes())


SPOILED: dict[str, Callable[[Path], object]] = {
    "a weight": spoil("model/model.safetensors"),
    "the header of the weights": spoil("model/model.safetensors", 9),
    "weights that go on": size_by(1),
    "weights that end early": size_by(-50),
    "the card": spoil("model/README.md"),
    "the bill of materials": spoil("model/bom.cdx.json"),
    "release.json": spoil("model/release.json"),
    "the state": spoil("model/provenance/state.json"),
    "the base": spoil("model/provenance/base.json"),
    "the layout": spoil("model/provenance/layout.json"),
    "a file too many": lambda folder: (folder / "model/run.py").write_text("import os\n"),
    "a file too few": lambda folder: (folder / "model/bom.cdx.json").unlink(),
    "a link": lambda folder: (folder / "model/more").symlink_to("/etc/passwd"),
    "the list of releases": spoil("new/releases.json", 5),
    "a target of other bytes": rewrite(
        lambda t: t.targets[f"{BASE}/README.md"].hashes.update(sha256="0" * 64)
    ),
    "a target too many": rewrite(lambda t: t.targets.update({"x": t.targets["releases.json"]})),
    "a target too few": rewrite(lambda t: t.targets.pop("releases.json")),
    "a field of one's own": rewrite(lambda t: t.unrecognized_fields.update({"x": "y"})),
    "a word beside a file": rewrite(
        lambda t: t.targets["releases.json"].unrecognized_fields.update({"custom": {"x": "y"}})
    ),
    "a number that has no form": rewrite(lambda t: t.unrecognized_fields.update({"x": 1.5})),
    "a version too high": rewrite(lambda t: setattr(t, "version", 7)),
    "for two years": rewrite(later),
    "run out": rewrite(lambda t: setattr(t, "expires", t.expires - datetime.timedelta(days=400))),
    "a key of the operator's for a holder's": other_roots,
    "one signature is enough": fewer_signatures,
}  # fmt: skip


@pytest.mark.parametrize("how", SPOILED)
def test_a_draft_that_does_not_follow_from_the_ledger(
    drafted: tuple[World, Checked], how: str, tmp_path: Path
) -> None:
    world, made = drafted
    folder = Path(shutil.copytree(made.folder, tmp_path / "draft"))
    seen = world.view()
    checking.check(folder, seen, now())
    SPOILED[how](folder)
    with pytest.raises((ReleaseError, Conflict)):
        checking.check(folder, seen, now())


def test_a_draft_of_another_consortium_or_with_another_ledger(
    drafted: tuple[World, Checked], world: World
) -> None:
    _, made = drafted
    with pytest.raises(ReleaseError, match="of another"):
        checking.check(made.folder, world.view(), now())


def test_too_few_signatures(drafted: tuple[World, Checked], tmp_path: Path) -> None:
    world, made = drafted
    folder = Path(shutil.copytree(made.folder, tmp_path / "draft"))
    checked = checking.check(folder, world.view(), now())
    for names, enough in (((), False), (HOLDERS[:1], False), (HOLDERS[:2], True)):
        given = [world.signed(checked, name) for name in names]
        fresh = checking.check(folder, world.view(), now())
        if enough:
            holder.collect(fresh, given)
            continue
        with pytest.raises(Refused) as caught:
            holder.collect(fresh, given)
        assert f"{len(names)} of the 2 signatures" in caught.value.message
        assert "cedar" in caught.value.message and "release sign" in str(caught.value.hint)


def test_signatures_that_are_none(drafted: tuple[World, Checked], tmp_path: Path) -> None:
    """Of somebody else, under another name, for another draft, of a member that is no holder."""
    world, made = drafted
    folder = Path(shutil.copytree(made.folder, tmp_path / "draft"))
    checked = checking.check(folder, world.view(), now())
    good = world.signed(checked, "acme")
    assert good.targets is not None and good.model is not None
    other = world.signed(checked, "birch")
    assert other.targets is not None
    spoiled = [
        good.model_copy(update={"member": "birch"}),
        good.model_copy(update={"targets": other.targets}),
        good.model_copy(update={"targets": good.targets.model_copy(update={"sig": other.targets.sig})}),
        good.model_copy(update={"root": other.root}),
        good.model_copy(update={"consortium": "0" * 64}),
        good.model_copy(update={"model": other.model}),
        good.model_copy(update={"model": None}),
        good.model_copy(update={"model": good.model.model_copy(update={"release": "other"})}),
        good.model_copy(update={"model": good.model.model_copy(update={"key": "é"})}),
    ]
    for each in spoiled:
        holder.write(checked, each)
        with pytest.raises(SignatureError, match="no signature of this draft"):
            holder.read(checked)
        (folder / derived.SIGNED / f"{each.member}.json").unlink()
    holder.write(checked, good)
    assert [each.member for each in holder.read(checked)] == ["acme"]
    with pytest.raises(KeyRefused, match="asks for no signature of dara"):
        holder.signature(checked, "dara", [KeyPair.generate()], world.models["dara"])
    with pytest.raises(KeyRefused):
        holder.signature(checked, "acme", [KeyPair.generate()], world.models["acme"])


def test_nothing_is_released_without_a_decision(world: World) -> None:
    with pytest.raises(Refused, match="no decision of the members"):
        world.draft()
    world.accepted("nowhere", state="5" * 64)
    with pytest.raises(ReleaseError, match="stood in no run"):
        world.draft("nowhere")
    world.accepted()
    world.draft()


def test_from_the_vote_to_the_revocation(world: World) -> None:
    world.released()
    got = fetched(world, "one")
    assert got.release.release == BASE and got.signatures == 2 and got.holders == HOLDERS
    assert got.signed_model == HOLDERS[:2]
    assert got.release.state == world.state().head
    with pytest.raises(Conflict, match="published already"):
        world.draft()
    # A second one beside it, in which nothing of the first is made anew.
    world.accepted("base-2", state=world.state().plan.initial_state)
    second = world.draft("base-2")
    assert second.new_root is None
    world.publish(second, *HOLDERS[1:])
    assert fetched(world, "two").release.release == "base-2"
    assert fetched(world, "first", BASE).release.release == BASE
    # A draft that was signed before the revocation is not published after it.
    world.accepted("base-3", state=world.state().plan.initial_state)
    late = world.draft("base-3")
    world.revoked("base-3")
    world.revoked()
    with pytest.raises(Refused, match="was revoked"):
        checking.check(late.folder, world.view(), now())
    with pytest.raises(Refused, match="was revoked"):
        world.draft()
    fetched(world, "still", BASE)  # until the holders say so
    gone = world.draft(None)
    world.publish(gone, *HOLDERS[:2])
    with pytest.raises(ReleaseError) as caught:
        fetched(world, "gone", BASE)
    assert caught.value.rule == "revoked" and "by decision" in caught.value.message
    assert not (world.repository / "targets" / BASE).exists()
    assert fetched(world, "left").release.release == "base-2"
    with pytest.raises(NotFound) as none:
        fetched(world, "none", "base-9")
    assert none.value.hint == "accepted so far: base-1, base-2, base-3"
    assert fetched(world, "again", "base-2").release.merges == 0


def test_a_holder_forges_what_is_published(world: World) -> None:
    """One holder and the operator bring a root along in which one signature is enough, and targets under it
    in which a release has other bytes. The others would take these over."""
    world.released()
    world.accepted("base-2", state=world.state().plan.initial_state)
    made = world.draft("base-2")
    checking.check(made.folder, world.view(), now())
    pair = world.pairs["acme"][0]
    root: Metadata[Any] = Metadata.from_bytes((made.folder / derived.CURRENT_ROOT).read_bytes())
    targets: Metadata[Any] = Metadata.from_bytes((made.folder / derived.CURRENT_TARGETS).read_bytes())
    root.signed.roles["root"].threshold = root.signed.roles["targets"].threshold = 1
    for metadata in (root, targets):
        metadata.signed.version += 5
        metadata.signatures.clear()
        roles.sign(metadata, pair)
    assert not roles.lacking(root.signed, "targets", targets)[0]
    (made.folder / derived.CURRENT_ROOT).write_bytes(root.to_bytes())
    (made.folder / derived.CURRENT_TARGETS).write_bytes(targets.to_bytes())
    with pytest.raises(ReleaseError, match="too few signatures of holders"):
        checking.check(made.folder, world.view(), now())


def test_thieves_of_old_keys_forge_what_is_published(world: World) -> None:
    """They were replaced, and by the ledger's word alone still count. The repository shows it."""
    world.released()
    root = (world.repository / "metadata" / "1.root.json").read_bytes()
    stolen = [world.pairs[name][0] for name in HOLDERS[:2]]
    for name in HOLDERS:
        world.new_key(name)
    world.publish(world.draft(None), *HOLDERS[:2])
    world.accepted("base-2", state=world.state().plan.initial_state)
    made = world.draft("base-2")

    def compared() -> Checked:
        checked = checking.check(made.folder, world.view(), now())
        seen = client.shown(str(world.repository), root=root, trust=world.folder / "trust")
        checking.continues(checked, *seen)
        return checked

    assert compared().facts is not None
    other = {"sha256": "ab" * 32}
    for path in (derived.CURRENT_TARGETS, derived.TARGETS):
        metadata: Metadata[Any] = Metadata.from_bytes((made.folder / path).read_bytes())
        metadata.signed.targets[f"{BASE}/README.md"].hashes = other
        metadata.signatures.clear()
        for pair in stolen if path == derived.CURRENT_TARGETS else ():
            roles.sign(metadata, pair)
        (made.folder / path).write_bytes(metadata.to_bytes())
    (made.folder / derived.CURRENT_ROOT).write_bytes(root)
    first: Metadata[Any] = Metadata.from_bytes(root)
    expires = roles.in_days(now(), roles.HOLDERS_DAYS)
    new = derived.due(world.view(), world.online.public_key, expires, first.signed)
    (made.folder / derived.ROOT).write_bytes(Metadata(new).to_bytes())
    checked = checking.check(made.folder, world.view(), now())
    assert checked.targets.signed.targets[f"{BASE}/README.md"].hashes == other
    with pytest.raises(Conflict, match="not what the repository shows") as caught:
        compared()
    assert caught.value.hint


@pytest.mark.parametrize("sig", [1.5, {}, [], True, None, "zz", "é"])
def test_a_signature_in_what_is_published_that_is_none(released: World, sig: Any, tmp_path: Path) -> None:
    made = released.folder / "draft-2"
    folder = Path(shutil.copytree(made, tmp_path / "draft"))
    checking.check(folder, released.view(), now())
    value = json.loads((folder / derived.CURRENT_TARGETS).read_bytes())
    for each in value["signatures"]:
        each["sig"] = sig
    (folder / derived.CURRENT_TARGETS).write_text(json.dumps(value))
    with pytest.raises(ReleaseError):
        checking.check(folder, released.view(), now())


def test_a_release_is_held_against_a_ledger(world: World) -> None:
    """k holders could sign what nobody voted for; whoever has the ledger sees that."""
    world.released()
    seen = world.view()
    release = fetched(world, "one").release
    client.hold_against(release, seen)
    for field in ("decision", "charter", "plan", "state"):
        with pytest.raises(ReleaseError, match=f"another {field}"):
            client.hold_against(release.model_copy(update={field: "0" * 64}), seen)
    for change in ({"merges": 9}, {"run": "other"}, {"sequence": 1}):
        with pytest.raises(ReleaseError):
            client.hold_against(release.model_copy(update=change), seen)
    with pytest.raises(Refused, match="no decision"):
        client.hold_against(release.model_copy(update={"release": "other"}), seen)


def test_two_drafts_at_once(world: World) -> None:
    world.accepted()
    world.accepted("base-2", state=world.state().plan.initial_state)
    one, two = world.draft(), world.draft("base-2")
    world.publish(one, *HOLDERS[:2])
    with pytest.raises(Conflict):
        published.write(
            world.repository,
            before=None,
            root=two.new_root,
            targets=two.targets,
            new_files=two.sources(),
            signatures={},
            online=world.online,
            now=now(),
        )
    fetched(world, "one", BASE)


def test_a_holders_new_key_and_a_new_holder(world: World) -> None:
    world.released()
    fetched(world, "before")
    # acme's key is another: the new list is signed with the old key and the new one.
    world.new_key("acme")
    changed = world.draft(None)
    assert changed.new_root is not None and changed.new_root.signed.version == 2
    old, new = world.pairs["acme"][1], world.pairs["acme"][0]
    given = world.signed(changed, "acme")
    assert given.targets is not None and given.targets.keyid == roles.tuf_id(new.public_key)
    assert {each.keyid for each in given.root} == {roles.tuf_id(each.public_key) for each in (old, new)}
    world.publish(changed, "acme", "birch")
    fetched(world, "after", BASE)
    # dara takes birch's place: old holders must agree.
    charter = world.view().assembly.governance.charter
    assert charter is not None
    next_one = charter.model_copy(
        update={
            "revision": 2,
            "release": charter.release.model_copy(update={"holders": ("acme", "cedar", "dara")}),
        }
    )
    world.passed(ChangeCharter(charter=next_one))
    late = world.draft(None)  # dara has no key: two are enough to go on with
    assert "dara" not in roles.members_of(late.root).values()
    world.new_key("dara")
    with pytest.raises(Conflict, match="not those of charter and ledger"):
        checking.check(late.folder, world.view(), now())
    changed = world.draft(None)
    with pytest.raises(Refused, match="of the holders before it"):
        holder.collect(changed, [world.signed(changed, name) for name in ("cedar", "dara")])
    changed = world.draft(None)
    gives_way = world.signed(changed, "birch")
    assert gives_way.targets is None and len(gives_way.root) == 1 and gives_way.model is None
    world.publish(changed, "birch", "cedar", "dara")
    got = fetched(world, "last", BASE)
    assert got.holders == ("acme", "cedar", "dara")


def test_an_operator_with_another_key(world: World) -> None:
    world.released()
    first, world.online = world.online, KeyPair.generate()
    with pytest.raises(KeyRefused, match="another key of the operator"):
        published.renew(world.repository, world.online, now())
    changed = world.draft(None)
    assert changed.new_root is not None
    world.publish(changed, *HOLDERS[:2])
    published.renew(world.repository, world.online, now())
    fetched(world, "with-it")
    with pytest.raises(KeyRefused):
        published.renew(world.repository, first, now())


def test_a_holder_that_was_expelled(world: World) -> None:
    world.accepted()
    made = world.draft()
    world.passed(Expel(member="cedar"), "cedar")
    with pytest.raises(Conflict, match="not those of charter and ledger"):
        checking.check(made.folder, world.view(), now())
    again = world.draft()
    assert sorted(roles.members_of(again.root).values()) == ["acme", "birch"]
    world.publish(again, "acme", "birch")
    fetched(world, "without")


def test_too_few_holders_with_keys(tmp_path: Path) -> None:
    made = World(tmp_path / "core")
    with made.core:
        made.trained()
        made.accepted()
        for name in HOLDERS[:2]:
            made.revoke(made.nodes[name], made.pairs[name][0])
        with pytest.raises(Conflict, match="1 holders have a release key, 2 must sign; acme has none"):
            made.draft()
        made.new_key("acme")
        made.draft()


class Killed(BaseException):
    """As a power cut would end it."""


def test_publishing_that_ends_anywhere_is_done_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever fetches meanwhile sees what was before, or nothing; after a second call all is there."""
    world.accepted()
    world.accepted("base-2", state=world.state().plan.initial_state)
    write = files.write_atomic

    def interrupted(checked: Checked, at: int) -> bool:
        """Publish, but not beyond the write of that number; whether there was one."""
        written = 0

        def writes(path: Path, data: bytes, **given: Any) -> None:
            nonlocal written
            written += 1
            if written == at:
                raise Killed
            write(path, data, **given)

        with monkeypatch.context() as patched:
            patched.setattr(files, "write_atomic", writes)
            try:
                world.publish(checked)
            except Killed:
                return True
        return False

    for name, before in ((BASE, None), ("base-2", BASE)):
        made = world.draft(name)
        for holding in HOLDERS[:2]:
            holder.write(made, world.signed(made, holding))
        ends = 0
        while interrupted(made, ends + 1):
            ends += 1
            if before is None:
                assert published.load(world.repository) is None
                continue
            assert fetched(world, f"{name}-{ends}").release.release == before
        assert ends >= 5
        assert fetched(world, name).release.release == name


@pytest.mark.parametrize("way", ["renew", "propose"])
def test_a_change_of_holders_that_ends_before_it_is_shown(
    world: World, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """The new root is there, and what is shown has too few signatures under it."""
    world.released()
    for name in HOLDERS[:2]:
        world.new_key(name)
    world.online = KeyPair.generate()
    changed = world.draft(None)
    write = files.write_atomic

    def writes(path: Path, data: bytes, **given: Any) -> None:
        if path.name == published.TIMESTAMP:
            raise Killed
        write(path, data, **given)

    with monkeypatch.context() as patched:
        patched.setattr(files, "write_atomic", writes)
        with pytest.raises(Killed):
            world.publish(changed, *HOLDERS[:2])
    with pytest.raises(ReleaseError):
        fetched(world, "meanwhile")
    if way == "renew":
        published.renew(world.repository, world.online, now())
    else:
        world.new_key("cedar")  # so that the draft that was cut off is of no use any more
        world.publish(world.draft(None), *HOLDERS[:2])
    fetched(world, "after", BASE)


def test_a_draft_that_came_without_its_empty_folder(world: World) -> None:
    world.accepted()
    made = world.draft()
    (made.folder / derived.SIGNED).rmdir()
    holder.write(made, world.signed(made, "acme"))
    assert [each.member for each in holder.read(made)] == ["acme"]
    (made.folder / derived.CATALOG).unlink()
    with pytest.raises(ReleaseError, match=r"has no .*catalog") as caught:
        checking.check(made.folder, world.view(), now())
    assert caught.value.hint


def test_renewing_keeps_the_snapshot_while_it_lasts(world: World) -> None:
    world.released()
    metadata = world.repository / "metadata"
    before = sorted(path.name for path in metadata.iterdir())
    version, until = published.renew(world.repository, world.online, now())
    assert version == 2 and until > now() + datetime.timedelta(days=6)
    assert sorted(path.name for path in metadata.iterdir()) == before
    later_on = now() + datetime.timedelta(days=20)
    published.renew(world.repository, world.online, later_on)
    assert (metadata / "2.snapshot.json").exists()
    fetched(world, "renewed")
