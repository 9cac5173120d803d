"""Names, certificates and invitations that are somebody else's."""

from __future__ import annotations

import time
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from tapestry.core import operator
from tapestry.core.runs import Runs
from tapestry.errors import IntegrityError
from tapestry.identity.envelope import Envelope, sign
from tapestry.identity.keyring import KeyRing, make_certificate, make_join, make_revocation
from tapestry.identity.keys import KeyPair
from tapestry.protocol import canonical
from tests.attacks.catalog import attack, attacks, case
from tests.attacks.support import BOB, EVE, Game, HereCore, refused
from tests.attacks.switches import Switches
from tests.core.support import Member, as_json, time_at

WHO = "a member, or who wants to be one"
Given = tuple[Any, ...]
RING = "tapestry.identity.keyring.KeyRing"
_numbers = count(1)


def post_key(member: Member, kind: str, envelope: Envelope) -> httpx.Response:
    return member.ask("POST", "/v1/keys", canonical.encode({kind: as_json(envelope)}))


def certificate(root: KeyPair, key: KeyPair, **other: Any) -> Envelope:
    fields: dict[str, Any] = {
        "member": "eve",
        "node": "eve-1",
        "role": "node",
        "public_key": key.public_key,
        "not_before": time_at(-3600),
        "expires": time_at(3600),
    }
    return make_certificate(root, **(fields | other))


def contributed(game: Game, key: KeyPair, **other: Any) -> httpx.Response:
    """Eve's request, her contribution signed by another key."""
    delta, own = game.eve.send_delta(EVE), game.eve.key
    game.eve.key = key
    envelope = game.signed(delta, **other)
    game.eve.key = own
    return game.eve.contribute(envelope, game.run)


def ring_of(core: HereCore) -> KeyRing:
    return core.core.consortium.ring()


# -- certificates -------------------------------------------------------------------------------


def _others_node(game: Game) -> tuple[str, Envelope]:
    return "certificate", certificate(game.eve.root, KeyPair.generate(), node="bob-1")


def _others_member(game: Game) -> tuple[str, Envelope]:
    return "certificate", certificate(game.eve.root, KeyPair.generate(), member="bob", node="bob-1")


def _without_a_node(game: Game) -> tuple[str, Envelope]:
    return "certificate", certificate(game.eve.root, KeyPair.generate(), node=None)


def _self_signed(game: Game) -> tuple[str, Envelope]:
    key = KeyPair.generate()
    return "certificate", certificate(key, key)


def _used_key(game: Game) -> tuple[str, Envelope]:
    """Bob's key, under eve's name: what bob signs would be eve's."""
    return "certificate", certificate(game.eve.root, game.bob.key)


def _expired_at_once(game: Game) -> tuple[str, Envelope]:
    return "certificate", certificate(game.eve.root, KeyPair.generate(), expires=time_at(-5))


@attacks(
    case(
        "another-members-node-name",
        "certifies a key for the node bob-1",
        "a node's name belongs to one member",
        _others_node,
        "conflict",
        "certify",
        "holder.node == certificate.node and holder.member != certificate.member",
    ),
    case(
        "certificate-for-another-member",
        "certifies a key in bob's name with its own root key",
        "a certificate names the member whose root key has signed it",
        _others_member,
        "key",
        "_from_root",
        "message.member != member",
    ),
    case(
        "certificate-without-a-node",
        "certifies a node key that is no node's",
        "a node key names its node",
        _without_a_node,
        "key",
        "certify",
        'certificate.role == "node" and certificate.node is None',
    ),
    case(
        "certificate-of-a-key-in-use",
        "certifies bob's key as its own",
        "a key has one holder",
        _used_key,
        "key",
        "refuse_used",
        "name in self.keys or self._root(name) is not None",
    ),
    case(
        "certificate-already-expired",
        "registers a key whose time is over, for old signatures",
        "a certificate must still have life",
        _expired_at_once,
        "key",
        "certify",
        "parse_time(certificate.expires) <= parse_time(at)",
    ),
)
def test_a_certificate(game: Game, switches: Switches, given: Given) -> None:
    make, expected, place, check = given
    before = ring_of(game.core)
    refused(post_key(game.eve, *make(game)), expected)
    assert ring_of(game.core) == before
    game.goes_on()
    with ExitStack() as stack, _ring_kept(game.core):
        stack.enter_context(switches.check_off(f"{RING}.{place}", check))
        answer = post_key(game.eve, *make(game))
        assert answer.status_code == 200, answer.text
        assert ring_of(game.core) != before


def _ring_kept(core: HereCore) -> ExitStack:
    """What a control writes into the ring does not stay: the ring's snapshot is put back afterwards."""
    import sqlalchemy as sa

    stack, journal = ExitStack(), core.core.journal
    from tapestry.core.journal import ASSEMBLY

    before = core.core.consortium.assembly()

    def back() -> None:
        from tapestry.storage.database import snapshots

        with core.core.database.transaction() as connection:
            kept = sa.update(snapshots).where(snapshots.c.scope == ASSEMBLY.name)
            connection.execute(kept.values(state=ASSEMBLY.encode(before)))
        while True:  # a thread of the core that has just read the other one may keep it a moment later
            journal._cache.pop(ASSEMBLY.name, None)
            time.sleep(0.05)
            if core.core.consortium.assembly() == before:
                return

    stack.callback(back)
    return stack


@attack(
    "self-signed-certificate",
    tries="certifies a key with that key",
    stopped_by="certificates are signed by the root key of an admitted member",
)
def test_self_signed(game: Game, switches: Switches) -> None:
    refused(post_key(game.eve, *_self_signed(game)), "unknown-member")
    game.goes_on()
    with (
        _ring_kept(game.core),
        switches.check_off(f"{RING}._from_root", "self._root(envelope.signatures[0].keyid)", lambda: "eve"),
        switches.off(
            "tapestry.identity.envelope.Envelope.open_as", lambda self, kind, _key: self.unverified(kind)
        ),
    ):
        # `open_as` is off for the request's proof too: eve's own is a good one
        assert post_key(game.eve, *_self_signed(game)).status_code == 200


@attack(
    "another-members-key-revoked",
    tries="ends bob's key with its own root key",
    stopped_by="a key is ended by the root key of its own member",
)
def test_revoking_another(game: Game, switches: Switches) -> None:
    ended = make_revocation(game.eve.root, member="eve", revoked=game.bob.key.key_id, reason="compromised")
    refused(post_key(game.eve, "revocation", ended), "not-found")
    game.goes_on()
    with (
        _ring_kept(game.core),
        switches.check_off(f"{RING}.revoke", "entry.certificate.member != revocation.member"),
    ):
        assert post_key(game.eve, "revocation", ended).status_code == 200
        assert game.bob.ask("GET", "/v1/members").json()["error"]["code"] == "key", "bob is shut out"


# -- joining ------------------------------------------------------------------------------------


@pytest.fixture
def newcomer(core: HereCore) -> Member:
    """Has not joined yet, and nobody knows of it."""
    return core.member(f"new{next(_numbers)}", join=False)


USE = "tapestry.storage.invitations.use"


@attack(
    "stolen-invitation",
    tries="joins with an invitation that was made for another member",
    stopped_by="an invitation names its member",
)
def test_a_stolen_invitation(core: HereCore, newcomer: Member, game: Game, switches: Switches) -> None:
    token = operator.invite(core.root, "victim")
    refused(newcomer.join(token), "invitation")
    game.goes_on()
    with switches.check_off(USE, "row.member != member"):
        assert newcomer.join(token).status_code == 200


@attack(
    "invitation-used-twice",
    tries="joins a second member with an invitation that is spent",
    stopped_by="an invitation admits once",
)
def test_a_spent_invitation(core: HereCore, newcomer: Member, game: Game, switches: Switches) -> None:
    token = operator.invite(core.root, newcomer.name)
    assert newcomer.join(token).status_code == 200
    second = Member(f"{newcomer.name}b", core.consortium, url=core.url)
    refused(second.join(token), "invitation")
    game.goes_on()
    with switches.check_off(USE, "row.used_at is not None"), switches.check_off(USE, "row.member != member"):
        assert second.join(token).status_code == 200
    second.http.close()


@attack(
    "expired-invitation",
    tries="joins with an invitation whose time is over",
    stopped_by="invitations end by the core's clock",
)
def test_an_expired_invitation(core: HereCore, newcomer: Member, game: Game, switches: Switches) -> None:
    token = operator.invite(core.root, newcomer.name, days=1e-9)
    refused(newcomer.join(token), "invitation")
    game.goes_on()
    with switches.check_off(USE, "row.expires <= at"):
        assert newcomer.join(token).status_code == 200


@attack(
    "guessed-invitation",
    tries="joins with a word of its own",
    stopped_by="an invitation is 256 random bits, of which the core keeps the hash",
)
def test_an_invented_invitation(core: HereCore, newcomer: Member, game: Game, switches: Switches) -> None:
    refused(newcomer.join("please-let-me-in-please"), "invitation")
    game.goes_on()
    with switches.off(USE):
        assert newcomer.join("please-let-me-in-please").status_code == 200


@attack(
    "member-name-squatted",
    tries="joins as bob, with a root key of its own",
    stopped_by="a name belongs to the root key it was admitted with",
)
def test_squatting(core: HereCore, game: Game, switches: Switches) -> None:
    twin = Member("bob", core.consortium, url=core.url)
    token = operator.invite(core.root, "bob")
    made = make_certificate(
        twin.root,
        member="bob",
        node="bob-9",
        role="node",
        public_key=twin.key.public_key,
        not_before=time_at(-3600),
        expires=time_at(3600),
    )
    refused(twin.join(token, made), "conflict")
    game.goes_on()
    with _ring_kept(core), switches.check_off(f"{RING}.admit", "present is not None"):
        assert twin.join(token, made).status_code == 200
        assert ring_of(core).members["bob"].root_key == twin.root.public_key
    twin.http.close()


@attack(
    "two-nodes-of-one-name",
    tries="joins a second node under the name of one that works, so that each round has two of them",
    stopped_by="a second valid key for a node's name comes by rotation only",
)
def test_twins(core: HereCore, game: Game, switches: Switches) -> None:
    key = KeyPair.generate()
    refused(game.eve.join("0" * 40, certificate(game.eve.root, key)), "conflict")
    game.goes_on()
    with _ring_kept(core), switches.off("tapestry.core.consortium._refuse_twin"):
        assert game.eve.join("0" * 40, certificate(game.eve.root, key)).status_code == 200
        held = [k for k in ring_of(core).keys.values() if k.certificate.node == "eve-1" and k.revoked is None]
        assert key.public_key in {each.certificate.public_key for each in held} and len(held) >= 2


@attack(
    "join-with-anothers-certificate",
    tries="brings along a certificate of bob, to spend its invitation on bob's second node",
    stopped_by="a certificate in a request to join is the joining member's",
)
def test_anothers_certificate(core: HereCore, newcomer: Member, game: Game, switches: Switches) -> None:
    token = operator.invite(core.root, newcomer.name)
    bobs = certificate(game.bob.root, KeyPair.generate(), member="bob", node="bob-7")
    refused(newcomer.join(token, newcomer.certificate(), bobs), "invitation")
    assert newcomer.name not in ring_of(core).members, "all or nothing"
    game.goes_on()
    with switches.check_off("tapestry.core.consortium._certify", "member is not None and owner != member"):
        assert newcomer.join(token, newcomer.certificate(), bobs).status_code == 200


def _join_body(join: Envelope, member: Member) -> bytes:
    return canonical.encode({"certificates": [as_json(member.certificate())], "join": as_json(join)})


@attack(
    "join-of-another-consortium",
    tries="passes on a request to join that a member made for another consortium",
    stopped_by="a request to join names its consortium",
)
def test_another_consortium(core: HereCore, newcomer: Member, game: Game, switches: Switches) -> None:
    token = operator.invite(core.root, newcomer.name)
    join = make_join(newcomer.root, consortium="1" * 64, invitation=token, member=newcomer.name)
    body = _join_body(join, newcomer)
    refused(newcomer.http.post(core.url + "/v1/join", content=body), "signature")
    game.goes_on()
    with switches.check_off("tapestry.core.consortium.open_join", "join.consortium != consortium"):
        assert newcomer.http.post(core.url + "/v1/join", content=body).status_code == 200


@attack(
    "join-for-a-root-key-one-has-not",
    tries="joins under the public root key of somebody else",
    stopped_by="a request to join is signed by the root key it brings",
)
def test_a_root_key_it_has_not(core: HereCore, newcomer: Member, game: Game, switches: Switches) -> None:
    from tapestry.protocol.messages import Join

    token, victim = operator.invite(core.root, newcomer.name), KeyPair.generate()
    message = Join(
        consortium=core.consortium, invitation=token, member=newcomer.name, root_key=victim.public_key
    )
    body = canonical.encode({"certificates": [], "join": as_json(sign(message, newcomer.root))})
    refused(newcomer.http.post(core.url + "/v1/join", content=body), "signature")
    game.goes_on()
    with switches.off(
        "tapestry.identity.envelope.Envelope.open_as", lambda self, kind, _key: self.unverified(kind)
    ):
        assert newcomer.http.post(core.url + "/v1/join", content=body).status_code == 200
    assert ring_of(core).members[newcomer.name].root_key == victim.public_key


# -- keys that end ------------------------------------------------------------------------------


@attack(
    "key-that-ends-in-between",
    tries="hands in at the moment its key is revoked, so that the ledger holds what no verifier takes",
    stopped_by="the key is judged again in the transaction that records the contribution",
)
def test_a_key_that_ends_in_between(
    tmp_path: Path, switches: Switches, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = HereCore(tmp_path / "core").start()
    try:
        game = Game(small, tmp_path / "made", "run")
        ended: list[Member] = []
        look = Runs._opened

        def opened(self: Runs, envelope: Envelope, *given: Any) -> Any:
            said = look(self, envelope, *given)
            for member in ended:
                name = member.key.key_id
                small.core.consortium.revoke(
                    make_revocation(member.root, member=member.name, revoked=name, reason="compromised")
                )
            ended.clear()
            return said

        monkeypatch.setattr(Runs, "_opened", opened)
        # A moment later the node is withdrawn from its runs: here that never comes.
        monkeypatch.setattr("tapestry.core.coordinator.lost_nodes", lambda *_: [])
        ended.append(game.eve)
        answer = game.tried()
        refused(answer, "key")
        assert game.ada.ledger().found.entries
        with switches.off("tapestry.core.runs.Runs._permit"):
            ended.append(game.bob)
            game.bob.hand_in(game.plan, BOB)
        with pytest.raises(IntegrityError, match="revoked"):
            game.ada.ledger()
    finally:
        small.close()
