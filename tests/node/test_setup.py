from __future__ import annotations

import stat
import time
from pathlib import Path
from typing import Any

import pytest

from tapestry.core import operator
from tapestry.errors import (
    Conflict,
    InputError,
    InvitationError,
    KeyRefused,
    SettingsError,
    TapestryError,
    Unreachable,
)
from tapestry.node import keys, member, settings, setup
from tapestry.node.home import Home, write_status
from tapestry.node.status import node_status
from tapestry.protocol.clock import add_seconds
from tapestry.transport.client import CoreClient
from tests.core.support import CoreUnderTest
from tests.node.conftest import MakeNode


@pytest.fixture
def member_dir(tmp_path: Path) -> Path:
    member.member_init(tmp_path / "member", "fr")
    return tmp_path / "member"


@pytest.fixture
def home(tmp_path: Path, member_dir: Path) -> Path:
    setup.init(tmp_path / "node", member_dir, "fr-1", tmp_path / "text")
    return tmp_path / "node"


def member_keys(core: CoreUnderTest, name: str = "fr") -> list[dict[str, Any]]:
    found = [m for m in operator.status(core.root)["members"] if m["member"] == name]
    return list(found[0]["keys"]) if found else []


# -- without a core -----------------------------------------------------------------------------


def test_a_member_has_a_root_key_that_only_it_can_read(member_dir: Path) -> None:
    assert stat.S_IMODE((member_dir / "root.key").stat().st_mode) == 0o600
    assert member.load_member(member_dir).name == "fr"
    with pytest.raises(Conflict, match="already"):
        member.member_init(member_dir, "fr")
    with pytest.raises(InputError, match="cannot be a member's name"):
        member.member_init(member_dir.with_name("x"), "Frankreich!")


def test_a_member_folder_that_is_none(tmp_path: Path, member_dir: Path) -> None:
    with pytest.raises(SettingsError, match=r"no member\.json"):
        member.load_member(tmp_path)
    other = member.member_init(tmp_path / "other", "de")
    (member_dir / "root.key").write_bytes(other.root.to_pem())
    with pytest.raises(SettingsError, match="not the key"):
        member.load_member(member_dir)
    (member_dir / "root.key").write_bytes(b"-----BEGIN PRIVATE KEY-----\nsecret")
    with pytest.raises(SettingsError) as caught:
        member.load_member(member_dir)
    assert "secret" not in str(caught.value)
    (member_dir / "member.json").write_text("{}")
    with pytest.raises(SettingsError, match=r"member\.json"):
        member.load_member(member_dir)


def test_a_node_gets_keys_and_never_the_root_key(home: Path, member_dir: Path) -> None:
    root = member.load_member(member_dir).root
    at = Home(home)
    assert settings.load(at).node.name == "fr-1"
    for role in keys.KEY_ROLES:
        key = keys.load(at, role)
        said = key.statement(root.public_key)
        assert (said.member, said.node, said.role) == ("fr", "fr-1", role)
        assert said.public_key == key.pair.public_key
        assert stat.S_IMODE((at.keys / f"{role}.key").stat().st_mode) == 0o600
    root_pem = root.to_pem()
    assert not any(root_pem in path.read_bytes() for path in home.rglob("*") if path.is_file())


def test_a_home_is_never_made_twice_or_by_half(
    home: Path, member_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (home / "keys/node.key").read_bytes()
    with pytest.raises(Conflict, match="not empty"):
        setup.init(home, member_dir, "fr-1", "text")
    assert (home / "keys/node.key").read_bytes() == before
    with pytest.raises(InputError, match="name"):
        setup.init(tmp_path / "n", member_dir, "Fr 1", "text")
    with pytest.raises(SettingsError, match=r"node\.publish"):
        setup.init(tmp_path / "n", member_dir, "fr-1", "text", publish="some")  # type: ignore[arg-type]

    def broken(*_: Any) -> str:
        raise OSError("broken")

    monkeypatch.setattr(settings, "render", broken)
    with pytest.raises(OSError, match="broken"):
        setup.init(tmp_path / "n", member_dir, "fr-1", "text")
    assert not (tmp_path / "n").exists()
    assert not list(tmp_path.glob(".n.*"))


def test_a_node_that_has_not_joined_says_so(home: Path) -> None:
    with pytest.raises(SettingsError, match="not joined") as caught:
        setup.connect(Home(home))
    assert "tapestry node join" in (caught.value.hint or "")


def test_no_core_to_join(home: Path, member_dir: Path) -> None:
    with pytest.raises(Unreachable):
        setup.join(home, "http://127.0.0.1:9", "t" * 32, member_dir=member_dir)
    assert not (home / "consortium.json").exists()


# -- with a core --------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["", "short", "t" * 200, "with a blank in it, and more"])
def test_what_is_no_invitation_is_said_at_once(home: Path, member_dir: Path, token: str) -> None:
    with pytest.raises(InvitationError, match="no invitation") as caught:
        setup.join(home, "http://127.0.0.1:9", token, member_dir=member_dir)
    assert not token or token not in caught.value.message


def test_status_says_what_a_node_ended_with(home: Path) -> None:
    error = {"code": "corpus", "message": "train.txt, line 1: not UTF-8", "hint": "convert it"}
    write_status(Home(home), "trainer", {"role": "trainer", "phase": "failed", "error": error})
    found = node_status(home)
    assert (found["trouble"], found["hint"]) == ("train.txt, line 1: not UTF-8", "convert it")


def test_joining(core: CoreUnderTest, home: Path, member_dir: Path) -> None:
    with pytest.raises(InvitationError):
        setup.join(home, core.url, "t" * 32, member_dir=member_dir)
    token = operator.invite(core.root, "fr")
    joined = setup.join(home, core.url, token, member_dir=member_dir)
    assert joined.consortium == core.consortium
    assert setup.load_consortium(Home(home)) == joined
    assert sorted(key["role"] for key in member_keys(core)) == ["node", "witness"]
    with setup.connect(Home(home)) as client:
        assert client.members()["members"][0]["member"] == "fr"
    assert setup.join(home, core.url, token, member_dir=member_dir) == joined


def test_another_members_folder(core: CoreUnderTest, home: Path, tmp_path: Path) -> None:
    member.member_init(tmp_path / "other", "de")
    for action in (
        lambda: setup.join(home, core.url, "t" * 32, member_dir=tmp_path / "other"),
        lambda: setup.rotate(home, tmp_path / "other"),
    ):
        with pytest.raises(SettingsError, match="belongs to fr"):
            action()


def test_a_second_node_of_a_member(core: CoreUnderTest, home: Path, member_dir: Path, tmp_path: Path) -> None:
    setup.join(home, core.url, operator.invite(core.root, "fr"), member_dir=member_dir)
    setup.init(tmp_path / "node2", member_dir, "fr-2", "text")
    setup.join(tmp_path / "node2", core.url, "any-word-of-16-letters", member_dir=member_dir)
    assert {key["node"] for key in member_keys(core)} == {"fr-1", "fr-2"}


@pytest.mark.parametrize("wrong_s", [-3e8, 3e8])
def test_keys_made_under_a_wrong_clock(
    core: CoreUnderTest, tmp_path: Path, member_dir: Path, monkeypatch: pytest.MonkeyPatch, wrong_s: float
) -> None:
    real = member.local_now()
    monkeypatch.setattr(setup, "local_now", lambda: add_seconds(real, wrong_s))
    setup.init(tmp_path / "node", member_dir, "fr-1", "text")
    setup.join(tmp_path / "node", core.url, operator.invite(core.root, "fr"), member_dir=member_dir)
    with setup.connect(Home(tmp_path / "node")) as client:
        client.members()


def test_rotation(core: CoreUnderTest, make_node: MakeNode) -> None:
    node = make_node("fr")
    old = node.key
    client = setup.connect(node.home)
    new = setup.rotate(node.home.root, node.member_dir)
    assert node.key.key_id == new != old.key_id
    standing = {key["key_id"]: key["revoked"] for key in member_keys(core) if key["role"] == "node"}
    assert standing[new] is None and standing[old.key_id] is not None
    with client, pytest.raises(KeyRefused, match="revoked"):
        client.members()
    with setup.connect(node.home) as client:
        client.members()
    assert sorted(p.name for p in node.home.keys.iterdir()) == [
        "node.cert.json",
        "node.key",
        "witness.cert.json",
        "witness.key",
    ]
    assert keys.load(node.home).statement(member.load_member(node.member_dir).root.public_key)


def test_rotation_brings_back_a_node_whose_key_is_revoked(core: CoreUnderTest, make_node: MakeNode) -> None:
    node = make_node("fr")
    setup.revoke(node.home.root, node.member_dir, "compromised")
    new = setup.rotate(node.home.root, node.member_dir)
    assert node.key.key_id == new
    with setup.connect(node.home) as client:
        client.members()


def test_rotation_brings_back_a_node_whose_key_is_expired(
    core: CoreUnderTest, tmp_path: Path, member_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "node"
    with monkeypatch.context() as patched:
        for module in (member, setup):
            patched.setattr(module, "LIFETIME_S", 3.0)
        setup.init(home, member_dir, "fr-1", "text")
        setup.join(home, core.url, operator.invite(core.root, "fr"), member_dir=member_dir)
    time.sleep(3)
    with setup.connect(Home(home)) as client, pytest.raises(KeyRefused, match="expired") as refused:
        client.members()
    assert "tapestry member key rotate" in (refused.value.hint or "")
    setup.rotate(home, member_dir)
    with setup.connect(Home(home)) as client:
        client.members()


@pytest.mark.parametrize("cut", range(12))
def test_a_rotation_cut_short_is_gone_on_with(
    core: CoreUnderTest, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    """Stopped before each of its lasting steps; the node is never without a key the core knows."""
    node = make_node("fr")
    old = node.key
    steps = 0

    class Cut(BaseException):
        pass

    def counting(real: Any) -> Any:
        def wrapped(*args: Any, **named: Any) -> Any:
            nonlocal steps
            if steps == cut:
                raise Cut
            steps += 1
            return real(*args, **named)

        return wrapped

    from tapestry.host import files

    with monkeypatch.context() as patched:
        patched.setattr(files, "write_atomic", counting(files.write_atomic))
        patched.setattr(files, "private_write", counting(files.private_write))
        patched.setattr(CoreClient, "post_certificate", counting(CoreClient.post_certificate))
        patched.setattr(CoreClient, "post_revocation", counting(CoreClient.post_revocation))
        with pytest.raises(Cut):
            setup.rotate(node.home.root, node.member_dir)
    with setup.connect(node.home) as client:
        client.members()
    new = setup.rotate(node.home.root, node.member_dir)
    assert node.key.key_id == new != old.key_id
    with setup.connect(node.home) as client:
        client.members()
    valid = {k["role"]: k["key_id"] for k in member_keys(core) if k["revoked"] is None}
    assert valid == {"node": new, "witness": keys.load_pair(node.home, "witness").key_id}
    assert len([k for k in member_keys(core) if k["revoked"] is None]) == 2


def test_revocation(core: CoreUnderTest, make_node: MakeNode) -> None:
    node, other = make_node("fr"), make_node("de")
    revoked = setup.revoke(node.home.root, node.member_dir, "compromised")
    assert revoked == node.key.key_id
    ended = {k["key_id"] for k in member_keys(core, "fr") if k["revoked"] is not None}
    assert ended == {revoked, keys.load_pair(node.home, "witness").key_id}
    with setup.connect(node.home) as client, pytest.raises(KeyRefused, match="revoked"):
        client.members()
    with setup.connect(other.home) as client:
        client.members()


def test_another_core_at_the_same_address(core: CoreUnderTest, make_node: MakeNode, tmp_path: Path) -> None:
    node = make_node("fr")
    joined = setup.load_consortium(node.home)
    node.home.consortium.write_bytes(joined.model_copy(update={"consortium": "0" * 64}).to_bytes())
    with setup.connect(node.home) as client, pytest.raises(TapestryError, match="consortium"):
        client.members()
