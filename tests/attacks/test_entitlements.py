"""Papers that give rights to who has none, and words about the account that nobody has said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature

from tapestry.audit.grants import Grants
from tapestry.audit.papers import Known, check
from tapestry.errors import EntitlementError, IntegrityError, TapestryError
from tapestry.governance import proposal as subjects
from tapestry.governance.entitlement import Asked, Entitlement, Paper, Proven
from tapestry.identity.keys import KeyPair
from tapestry.identity.notes import Note
from tapestry.ledger.checkpoint import Checkpoint, origin_of
from tests.attacks.catalog import attack, attacks, case
from tests.attacks.switches import Switches
from tests.audit import second, second_papers
from tests.audit.council import Council
from tests.audit.released import grants, known, released, signed, trained
from tests.audit.support import Ledger, verify

WHO = "a member, holders and a core, that want rights the rule does not give"
Given = tuple[Any, ...]
PAPERS = "tapestry.audit.papers"
DISPUTES = "tapestry.governance.disputes.dispute"
OTHER_KEY = (f"{PAPERS}._signatures", "keys.key_id(each.public_key) != named.get(each.member)")
LATER = "7" * 64


@dataclass
class Stage:
    """A first charter under which one round is enough, then one that asks for two; a release that was voted
    down, and one that was accepted. Ada has a new vote key since before that."""

    scene: Council
    ledger: Ledger
    made: Grants
    paper: Paper
    """Bob's, not signed."""
    old: KeyPair
    """Ada's vote key that she has revoked."""
    lost: str
    """The proposal that was voted down."""

    def change(self, **fields: Any) -> Entitlement:
        return self.paper.certificate.model_copy(update=fields)

    def signed(
        self, certificate: Entitlement, *more: Proven, names: tuple[str, ...] = ("ada", "cyd")
    ) -> Paper:
        """By holders who do not look."""
        ordered = {each.entry: each for each in (*self.paper.entries, *more)}.values()
        entries = tuple(
            sorted(ordered, key=lambda each: int(each.entry.split('"sequence":')[1].split(",")[0]))
        )
        bare = self.paper.model_copy(update={"certificate": certificate, "entries": entries})
        return signed(bare, self.scene, *names)

    def shown(self, type_: str, number: int = 0) -> Proven:
        """The n-th entry of a type, with its proof."""
        entry = self.ledger.lines[self.ledger.of(type_, number)][1]
        proof = self.made._tree.inclusion(entry.sequence - 1)
        return Proven(entry=entry.to_bytes().decode(), proof=tuple(each.hex() for each in proof))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    scene = trained(tmp_path_factory.mktemp("stage") / "core", entitlements={"rounds": 1})
    with scene.core:
        held = scene.votes.assembly().governance.charter
        assert held is not None
        rules = held.entitlements.model_copy(update={"rounds": 2})
        scene.passed(
            subjects.ChangeCharter(charter=held.model_copy(update={"revision": 2, "entitlements": rules}))
        )
        head = scene.state().head
        lost = scene.decided(
            "ada", subjects.AcceptRelease(release="lost", state=head), no=["ada", "bob", "cyd"]
        )
        ada = scene.nodes["ada"]
        ada.vote, old = KeyPair.generate(), ada.vote
        scene.core.consortium.certify(ada.certificate(ada.vote, "vote", named=False))
        scene.revoke(ada, old)
        scene.passed(subjects.AcceptRelease(release="one", state=head))
        ledger = scene.ledger()
        verify(ledger)
        made = grants(ledger)
        yield Stage(scene=scene, ledger=ledger, made=made, paper=made.paper("one", "bob"), old=old, lost=lost)


# -- papers -------------------------------------------------------------------------------------
# Each makes a paper that must not hold.


def _by_nobody(at: Stage) -> Paper:
    own = {"ada": KeyPair.generate(), "cyd": KeyPair.generate()}
    return signed(at.paper, at.scene, "ada", "cyd", keys=own)


def _altered(at: Stage) -> Paper:
    given = at.paper.certificate.given.model_copy(update={"tokens": 10**9})
    whole = at.signed(at.paper.certificate)
    return whole.model_copy(update={"certificate": at.change(given=given)})


def _too_few(at: Stage) -> Paper:
    return at.signed(at.paper.certificate, names=("cyd",))


def _twice(at: Stage) -> Paper:
    one = at.signed(at.paper.certificate, names=("cyd",))
    return one.model_copy(update={"signatures": (*one.signatures, *one.signatures)})


def _node_key(at: Stage) -> Paper:
    return signed(at.paper, at.scene, "ada", "cyd", keys={"ada": at.scene.nodes["ada"].key})


def _revoked_key(at: Stage) -> Paper:
    return signed(at.paper, at.scene, "ada", "cyd", keys={"ada": at.old})


def _no_holder(at: Stage) -> Paper:
    return at.signed(at.paper.certificate, names=("cyd", "dan"))


def _another_base(at: Stage) -> Paper:
    return at.signed(at.change(base=at.paper.certificate.base.model_copy(update={"base": LATER})))


def _another_state(at: Stage) -> Paper:
    first = at.ledger.lines[at.ledger.of("round-committed")][1].body
    names = ("round", "merges", "state", "base")
    base = at.paper.certificate.base.model_copy(update={name: first[name] for name in names})
    return at.signed(at.change(base=base), at.shown("round-committed"))


def _another_model(at: Stage) -> Paper:
    return at.signed(at.change(base=at.paper.certificate.base.model_copy(update={"model": LATER})))


def _another_charter(at: Stage) -> Paper:
    """Under the first one, cyd's single round is enough."""
    first = at.scene.charter(entitlements={"rounds": 1})
    certificate = at.change(
        charter=first.digest,
        revision=1,
        asked=Asked(rounds=1, weight="0", needs="both"),
        member="cyd",
        root_key=at.scene.nodes["cyd"].root.public_key,
        given=at.made.grants("one")[2].given,
    )
    return at.signed(certificate, at.shown("charter-adopted"), at.shown("member-admitted", 2))


def _not_entitled(at: Stage) -> Paper:
    certificate = at.change(
        member="cyd",
        root_key=at.scene.nodes["cyd"].root.public_key,
        given=at.made.grants("one")[2].given,
    )
    return at.signed(certificate, at.shown("member-admitted", 2))


def _lower_bar(at: Stage) -> Paper:
    return at.signed(at.change(asked=Asked(rounds=1, weight="0", needs="both")))


def _fewer_rights(at: Stage) -> Paper:
    return at.signed(at.change(rights=("use",)))


def _another_name(at: Stage) -> Paper:
    return at.signed(at.change(release="two"))


def _voted_down(at: Stage) -> Paper:
    decided = at.ledger.of("proposal-decided", 2)
    entry = at.ledger.lines[decided][1]
    assert entry.body["proposal"] == at.lost
    certificate = at.change(release="lost", decision=at.lost, decided=entry.sequence, at=entry.at)
    return at.signed(certificate, at.shown("proposal-opened", 2), at.shown("proposal-decided", 2))


def _another_root_key(at: Stage) -> Paper:
    return at.signed(at.change(root_key=KeyPair.generate().public_key))


def _made_up_entry(at: Stage) -> Paper:
    """The merge is changed in the entry that is shown, and in the certificate."""
    true = at.paper.certificate.base.base
    entries = tuple(
        each.model_copy(update={"entry": each.entry.replace(true, LATER)}) for each in at.paper.entries
    )
    certificate = at.change(base=at.paper.certificate.base.model_copy(update={"base": LATER}))
    return at.signed(certificate).model_copy(update={"entries": entries})


def _own_head(at: Stage) -> Paper:
    origin, own = origin_of(at.scene.consortium), KeyPair.generate()
    said = Checkpoint.parse(Note.from_bytes(at.paper.checkpoint.encode()).text)
    note = Note(said.text).signed(origin, own).to_bytes().decode()
    return at.signed(at.paper.certificate).model_copy(update={"checkpoint": note})


@attacks(
    case(
        "certificate-by-nobody",
        "countersigns a certificate of its own with keys of its own making, in the names of two holders",
        "the decision on the release names the key of each holder",
        _by_nobody,
        OTHER_KEY,
    ),
    case(
        "certificate-altered",
        "changes a number in a certificate after it was signed",
        "every countersignature is over the whole certificate",
        _altered,
        ("tapestry.identity.keys.verify", None),
    ),
    case(
        "certificate-with-too-few-signatures",
        "shows a certificate that one holder of three has signed",
        "the charter says how many must",
        _too_few,
        (f"{PAPERS}._signatures", "len(signed) < charter.release.signatures"),
    ),
    case(
        "certificate-signed-twice-by-one",
        "has one holder sign twice, in the place of two",
        "different holders are counted",
        _twice,
        (f"{PAPERS}._signatures", "each.member in signed"),
    ),
    case(
        "certificate-signed-by-a-node",
        "signs with the key that lies on a holder's node",
        "only the vote key that the decision names countersigns",
        _node_key,
        OTHER_KEY,
    ),
    case(
        "certificate-signed-by-a-revoked-key",
        "signs with a holder's stolen vote key, which was revoked before the release was accepted",
        "the decision names keys that were valid then, so no revocation has to be shown",
        _revoked_key,
        OTHER_KEY,
    ),
    case(
        "certificate-signed-by-no-holder",
        "has a member sign that the charter does not name as a holder",
        "the charter names the holders, and the decision their keys alone",
        _no_holder,
        (f"{PAPERS}._signatures", "each.member not in charter.release.holders"),
        OTHER_KEY,
    ),
    case(
        "certificate-for-a-base-of-no-merge",
        "writes the hash of another base into a certificate, which two holders sign unseen",
        "the entry that commits the merge names the base",
        _another_base,
        (
            f"{PAPERS}._base",
            "not any(merge.items() <= each.body.items() and each.sequence < said.decided for each in made)",
        ),
    ),
    case(
        "certificate-for-an-earlier-merge",
        "writes a state into a certificate that the run made, and nobody released",
        "the proposal that was voted on names the state",
        _another_state,
        (f"{PAPERS}._base", "named.state != state"),
    ),
    case(
        "certificate-for-another-model",
        "names another model as the base's",
        "the plan of the run names the model",
        _another_model,
        (
            f"{PAPERS}._base",
            "not any((each.model, each.layout) == (named.model, named.layout) for each in plans)",
        ),
    ),
    case(
        "certificate-under-a-charter-not-in-force",
        "counts by the first charter, which asks for less",
        "the tally of the release names the charter it was voted on under",
        _another_charter,
        (f"{PAPERS}._charter", "not said.charter == tally.charter == proposal.charter"),
    ),
    case(
        "certificate-for-who-gave-too-little",
        "has two holders sign for a friend who did not meet the rule",
        "who checks applies the charter's rule to the numbers",
        _not_entitled,
        (f"{PAPERS}._facts", "not verdict.granted"),
    ),
    case(
        "certificate-with-another-rule",
        "states that the charter asks for less than it does",
        "the charter's text is in the paper",
        _lower_bar,
        (
            f"{PAPERS}._facts",
            "said.asked != asked",
        ),
    ),
    case(
        "certificate-with-fewer-rights",
        "has two holders sign that a member may use the base, and no more",
        "the rights are four words, the same for everybody",
        _fewer_rights,
        (f"{PAPERS}._facts", "said.rights != RIGHTS"),
    ),
    case(
        "certificate-of-another-release",
        "shows the certificate of one release as that of another",
        "the proposal names the release",
        _another_name,
        (f"{PAPERS}._facts", "not isinstance(subject, AcceptRelease) or subject.release != said.release"),
    ),
    case(
        "certificate-of-a-release-voted-down",
        "makes a certificate of a release that the members refused",
        "the decision must have passed and be in force; it names no keys otherwise",
        _voted_down,
        (f"{PAPERS}._Evidence.decision", "event.in_force and event.verdict == \"passed\"", lambda: True),
        OTHER_KEY,
    ),
    case(
        "certificate-in-anothers-name",
        "writes a key of its own into bob's certificate, to be taken for bob",
        "the member's admission names its root key",
        _another_root_key,
        (f"{PAPERS}._root_key", "event.root_key != said.root_key"),
    ),
    case(
        "certificate-with-an-entry-made-up",
        "shows an entry that is not in the ledger, for another base",
        "every entry is proven to be in the head's tree",
        _made_up_entry,
        ("tapestry.ledger.tree.check_inclusion", None),
    ),
    case(
        "certificate-with-a-head-of-its-own",
        "signs the head of the tree itself, in the core's name",
        "the head is signed by the key that the founding names, or its successor",
        _own_head,
        ("tapestry.identity.notes.Note.check", None),
    ),
)  # fmt: skip
def test_a_paper(given: Given, stage: Stage, switches: Switches) -> None:
    make, *specs = given
    paper = make(stage)
    assert check(stage.signed(stage.paper.certificate), known(stage.ledger)), "bob's own holds"
    with pytest.raises(EntitlementError) as caught:
        check(paper, known(stage.ledger))
    assert caught.value.hint, "the way out is said"
    with pytest.raises((ValueError, InvalidSignature)):  # the second verifier
        second_papers.check(paper.to_bytes() + b"\n", stage.ledger.key.public_key, second)
    with switches.all_off(*specs):
        assert check(paper, known(stage.ledger)).certificate == paper.certificate


@attack(
    "certificate-for-another-base-shown",
    tries="shows the certificate of one base where the right to another is asked for",
    stopped_by="the base that is asked for is held against the certificate",
)
def test_shown_for_another_base(stage: Stage, switches: Switches) -> None:
    paper = stage.signed(stage.paper.certificate)
    with pytest.raises(EntitlementError, match="not for 777777777777"):
        check(paper, known(stage.ledger), base=LATER)
    with switches.check_off(
        f"{PAPERS}.check", "base is not None and base not in (said.base.base, said.base.state)"
    ):
        check(paper, known(stage.ledger), base=LATER)


@attack(
    "certificate-of-a-consortium-made-up",
    tries="founds a consortium of the same names by itself, with all its keys, and releases a base to itself",
    stopped_by="the reader knows the core's key from elsewhere",
)
def test_made_up(stage: Stage, tmp_path: Path, switches: Switches) -> None:
    own = released(tmp_path / "own")
    with own.core:
        ledger = own.ledger()
        paper = signed(grants(ledger).paper("one", "bob"), own, "ada", "cyd")
    assert check(paper, known(ledger))
    with pytest.raises(EntitlementError, match="not by the core's key that you gave"):
        check(paper, known(stage.ledger))
    with switches.check_off(f"{PAPERS}._Evidence.head", "known.core_key not in (None, core_key)"):
        check(paper, known(stage.ledger))


@attack(
    "account-inflated-in-a-certificate",
    tries="states more tokens and rounds in a certificate than the member gave, and asks holders to sign",
    stopped_by="a holder's program makes the certificate anew from its own ledger, and signs only the same",
)
def test_inflated(stage: Stage, switches: Switches) -> None:
    given = stage.paper.certificate.given.model_copy(update={"tokens": 10**9, "rounds": 3})
    said = stage.change(given=given)
    stage.made.hold(stage.paper.certificate)
    with pytest.raises(EntitlementError, match="another certificate for bob: given differs"):
        stage.made.hold(said)
    with switches.check_off(
        "tapestry.audit.grants.Grants.hold", "(field_ := first_difference(said, ours)) is not None"
    ):
        stage.made.hold(said)
    assert check(stage.signed(said), Known(core_key=stage.ledger.key.public_key)), (
        "whoever has no ledger believes k holders as to the numbers"
    )


@attack(
    "keys-of-holders-made-up",
    tries="records a decision on a release that names a key of the core's own as a holder's",
    stopped_by="the decision follows from the ledger, keys and all, and everybody repeats it",
)
def test_keys_made_up(stage: Stage, switches: Switches) -> None:
    own = KeyPair.generate()
    place = stage.ledger.of("proposal-decided", -1)
    signers = stage.ledger.lines[place][1].body["signers"]
    others = [{**each, "key_id": own.key_id} for each in signers]
    lie = stage.ledger.changed(place, signers=others).signed_anew()
    with pytest.raises(IntegrityError, match="by the rules comes another proposal-decided"):
        grants(lie)
    repeated = ("tapestry.audit.governance.repeated", "step.event != event")
    with switches.check_off(*repeated):
        made = grants(lie)
    keys = dict.fromkeys(("ada", "cyd"), own)
    paper = signed(made.paper("one", "bob"), stage.scene, "ada", "cyd", keys=keys)
    assert check(paper, known(lie)), "whoever has only the core's key is deceived by such a core"


# -- disputes -----------------------------------------------------------------------------------


def _in_anothers_name(council: Council) -> Any:
    return council.disputed("bob", key=council.nodes["ada"].vote)


def _by_a_node(council: Council) -> Any:
    return council.disputed("bob", key=council.nodes["bob"].key)


def _elsewhere(council: Council) -> Any:
    return council.disputed("bob", consortium=LATER)


def _without_end(council: Council) -> Any:
    for number in range(2):
        council.dispute("bob", round=number + 1)
    return council.disputed("bob", round=3)


RING = "tapestry.identity.keyring.KeyRing.verify"


@attacks(
    case(
        "dispute-in-anothers-name",
        "says in bob's name that bob gave less",
        "the key must be the member's",
        _in_anothers_name,
        RING,
        "own is not None and named != own",
    ),
    case(
        "dispute-by-a-node",
        "disputes with the key that lies on bob's node",
        "only a vote key disputes",
        _by_a_node,
        RING,
        "certificate.role not in roles",
    ),
    case(
        "dispute-of-another-consortium",
        "brings a dispute that was signed for another consortium",
        "the consortium is in what is signed",
        _elsewhere,
        DISPUTES,
        "said.consortium != moment.consortium",
    ),
    case(
        "disputes-without-end",
        "fills the ledger that everybody keeps with disputes",
        "a member has so many",
        _without_end,
        DISPUTES,
        "sum(member == said.member for member in known.values()) >= MAX_DISPUTES",
    ),
)
def test_a_dispute(given: Given, tmp_path: Path, switches: Switches, monkeypatch: pytest.MonkeyPatch) -> None:
    make, place, condition = given
    monkeypatch.setattr("tapestry.governance.disputes.MAX_DISPUTES", 2)
    council = Council(tmp_path / "core", "ada", "bob")
    with council.core:
        envelope = make(council)
        size = council.core.journal.tree_head()[0]
        with pytest.raises(TapestryError) as caught:
            council.votes.dispute(envelope)
        assert caught.value.hint and council.core.journal.tree_head()[0] == size
        with switches.check_off(place, condition):
            council.votes.dispute(envelope)
        lie = council.ledger()
    with pytest.raises(IntegrityError):
        verify(lie)
    with switches.check_off(place, condition):
        verify(lie)
