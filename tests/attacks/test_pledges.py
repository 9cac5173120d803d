"""Members who seem to bring what they do not, and a core that opens a phase all the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import IntegrityError, TapestryError
from tapestry.governance import proposal as subjects
from tapestry.identity.envelope import Envelope
from tapestry.identity.keys import KeyPair
from tapestry.rounds import machine
from tests.attacks.catalog import attack, attacks, case
from tests.attacks.switches import Switches
from tests.attacks.test_votes import REPEATED, RING, RULES, Given, believed
from tests.audit.promising import PILOT, Promising
from tests.audit.support import Ledger, verify

WHO = "a member, and a core, that want a phase to open"
PLEDGING = "tapestry.governance.pledging"
THRESHOLDS = "tapestry.governance.thresholds"
HOURS = "60 accelerator-hours"


@pytest.fixture
def council(tmp_path: Path) -> Iterator[Promising]:
    """Ada, bob, cyd and dan; all but dan are stewards."""
    council = Promising(tmp_path / "core", "ada", "bob", "cyd", "dan")
    with council.core:
        council.founded(text={"needs": {"data.fr": "3 GB"}})
        yield council


# -- pledges ------------------------------------------------------------------------------------


def _forged(council: Promising) -> Envelope:
    return council.said("bob", "compute", HOURS, key=KeyPair.generate())


def _by_another(council: Promising) -> Envelope:
    return council.said("bob", "compute", HOURS, key=council.nodes["ada"].vote)


def _by_a_node(council: Promising) -> Envelope:
    return council.said("bob", "compute", HOURS, key=council.nodes["bob"].key)


def _replayed(council: Promising) -> Envelope:
    first = council.said("bob", "compute", HOURS)
    council.pledges.pledge(first)
    council.pledge("bob", "compute", "1 accelerator-hours")
    return first


def _elsewhere(council: Promising) -> Envelope:
    return council.said("bob", "compute", HOURS, consortium="7" * 64)


def _stale(council: Promising) -> Envelope:
    return council.said("bob", "compute", HOURS, charter="7" * 64)


def _unknown_unit(council: Promising) -> Envelope:
    return council.said("bob", "compute", "60 gpu-days")


def _other_unit(council: Promising) -> Envelope:
    return council.said("bob", "funds", "5000 CHF")


def _other_form(council: Promising) -> Envelope:
    return council.said("bob", "compute", "60.0 accelerator-hours")


def _not_needed(council: Promising) -> Envelope:
    return council.said("bob", "storage", "2 TB")


def _not_shown(council: Promising) -> Envelope:
    return council.said("bob", "data.fr", "3 GB", phase="text", dataset="letters")


def _suspended(council: Promising) -> Envelope:
    council.passed(subjects.Suspend(member="bob"), "bob")
    return council.said("bob", "compute", HOURS)


@attacks(
    case(
        "pledge-forged",
        "pledges in bob's name with a key of its own making",
        "a pledge is signed by a vote key that the member's root key has certified",
        _forged,
        f"{RING}.verify",
        None,
        believed,
    ),
    case(
        "pledge-by-anothers-key",
        "signs a pledge of bob with ada's vote key",
        "the key must be the member's",
        _by_another,
        f"{RING}.verify",
        "own is not None and named != own",
    ),
    case(
        "pledge-by-a-node",
        "pledges with the key that lies on bob's node",
        "only a vote key pledges",
        _by_a_node,
        f"{RING}.verify",
        "certificate.role not in roles",
    ),
    case(
        "pledge-replayed",
        "puts bob's larger pledge of yesterday behind his smaller one of today",
        "pledges are numbered by whoever signs them",
        _replayed,
        f"{PLEDGING}.pledge",
        "said.number != expected",
    ),
    case(
        "pledge-of-another-consortium",
        "brings a pledge that was made to another consortium",
        "the consortium is in what is signed",
        _elsewhere,
        f"{RULES}._here",
        "consortium != moment.consortium",
    ),
    case(
        "pledge-under-another-charter",
        "counts for one phase what was pledged to another of the same name",
        "the charter that says what a phase is stands in the pledge",
        _stale,
        f"{PLEDGING}.pledge",
        "said.charter != charter.digest",
    ),
    case(
        "pledge-in-an-unknown-unit",
        "pledges in a unit that nobody can add up",
        "units are a closed list",
        _unknown_unit,
        f"{PLEDGING}.refuse_unfit",
        None,
    ),
    case(
        "pledge-in-another-currency",
        "pledges francs where euros are needed",
        "a pledge is in the unit of the need",
        _other_unit,
        f"{PLEDGING}.refuse_unfit",
        "not fits(said.resource, given) or given.of != amount(need).of",
    ),
    case(
        "pledge-in-another-form",
        "writes the same amount in a second way, so that two programs may read two",
        "an amount has one form",
        _other_form,
        f"{PLEDGING}.refuse_unfit",
        "said.amount != str(given)",
    ),
    case(
        "pledge-of-what-no-phase-needs",
        "fills the ledger with pledges of other things",
        "a pledge is held against a need of its phase",
        _not_needed,
        f"{PLEDGING}.refuse_unfit",
        None,
    ),
    case(
        "pledge-of-data-that-nobody-sees",
        "pledges a dataset that its catalog does not show",
        "the core looks for the dataset's card, its language and its size",
        _not_shown,
        "tapestry.core.pledges.Pledges._check_dataset",
        None,
    ),
    case(
        "pledge-of-a-suspended-member",
        "pledges while it is suspended",
        "who is suspended takes no part",
        _suspended,
        f"{RULES}._refuse_suspended",
        "found is not None",
    ),
)
def test_a_pledge(given: Given, council: Promising, switches: Switches) -> None:
    make, place, check, *instead = given
    envelope = make(council)
    before = council.core.journal.tree_head()[0]
    with pytest.raises(TapestryError) as caught:
        council.pledges.pledge(envelope)
    assert caught.value.hint, "the way out is said"
    assert council.core.journal.tree_head()[0] == before, "nothing is recorded"
    with switches.all_off((place, check, *instead)):
        council.pledges.pledge(envelope)
    assert council.core.journal.tree_head()[0] == before + 1


# -- confirmations ------------------------------------------------------------------------------


def _itself(council: Promising) -> Envelope:
    return council.word("bob", council.pledge("bob", "compute", HOURS))


def _no_steward(council: Promising) -> Envelope:
    return council.word("dan", council.pledge("bob", "compute", HOURS))


def _in_anothers_name(council: Promising) -> Envelope:
    pledge = council.pledge("bob", "compute", HOURS)
    return council.word("cyd", pledge, key=council.nodes["bob"].vote)


def _word_replayed(council: Promising) -> Envelope:
    pledge = council.pledge("bob", "compute", HOURS)
    first = council.word("cyd", pledge)
    council.pledges.confirm(first)
    council.confirm("cyd", pledge, stands=False)
    return first


def _of_before(council: Promising) -> Envelope:
    """Confirmed was less than what is pledged by now."""
    word = council.word("cyd", council.pledge("bob", "compute", "1 accelerator-hours"))
    council.pledge("bob", "compute", HOURS)
    return word


def _newest(governance: object, _pledge: str) -> object:
    return next(iter(governance.pledges.values()))  # type: ignore[attr-defined]


@attacks(
    case(
        "pledge-confirmed-by-itself",
        "confirms what it has pledged itself",
        "nobody confirms its own pledge",
        _itself,
        f"{PLEDGING}._refuse_confirmer",
        "member == held.member",
    ),
    case(
        "pledge-confirmed-by-a-friend",
        "has a member confirm it that looks after nothing",
        "stewards and auditors confirm",
        _no_steward,
        f"{PLEDGING}._refuse_confirmer",
        "not may_confirm(charter, governance, member, at)",
    ),
    case(
        "confirmation-in-anothers-name",
        "signs cyd's word about its own pledge",
        "the key must be the member's",
        _in_anothers_name,
        f"{RING}.verify",
        "own is not None and named != own",
    ),
    case(
        "confirmation-replayed",
        "brings back a word that was taken back",
        "a member's words about a pledge are numbered",
        _word_replayed,
        f"{PLEDGING}.confirm",
        "said.number != expected",
    ),
    case(
        "confirmation-of-an-earlier-pledge",
        "pledges more once a small pledge is confirmed",
        "a word names the pledge by its hash, and a newer one takes that one's place",
        _of_before,
        f"{PLEDGING}.held_as",
        None,
        _newest,
    ),
)
def test_a_confirmation(given: Given, council: Promising, switches: Switches) -> None:
    make, place, check, *instead = given
    envelope = make(council)
    before = council.core.journal.tree_head()[0]
    with pytest.raises(TapestryError) as caught:
        council.pledges.confirm(envelope)
    assert caught.value.hint, "the way out is said"
    assert council.core.journal.tree_head()[0] == before, "nothing is recorded"
    with switches.all_off((place, check, *instead)):
        council.pledges.confirm(envelope)
    assert council.core.journal.tree_head()[0] == before + 1


# -- the core -----------------------------------------------------------------------------------


def _too_little(council: Promising) -> None:
    """A vote that passes with three of four: no override, and half of what is needed."""
    council.brought("ada", "compute", HOURS, by="bob")
    council.decided("ada", subjects.OpenPhase(phase="pilot"), yes=["ada", "bob"], no=["cyd"])


@attack(
    "phase-below-its-thresholds",
    tries="opens a phase that was voted for, though what it needs was not brought",
    stopped_by="every verifier adds up what was pledged and confirmed",
)
def test_a_phase_that_is_opened_all_the_same(council: Promising, switches: Switches) -> None:
    with pytest.MonkeyPatch.context() as lies:
        lies.setattr("tapestry.governance.effects.why_not_open", lambda *_, **__: None)
        _too_little(council)
    assert council.votes.assembly().governance.phases
    lie = council.ledger()
    with pytest.raises(IntegrityError, match="by the rules comes another proposal-decided"):
        verify(lie)
    with switches.off("tapestry.governance.effects.why_not_open"):
        verify(lie)


@attack(
    "confirmation-moved",
    tries="records a steward's word about a small pledge as one about a large one",
    stopped_by="the word names its pledge",
)
def test_a_word_that_is_moved(council: Promising, switches: Switches) -> None:
    large = council.pledge("ada", "compute", "100 accelerator-hours")
    council.brought("bob", "funds", "1 EUR", by="ada")
    given = council.ledger()
    lie = given.changed(given.of("pledge-confirmed"), pledge=large).signed_anew()
    with pytest.raises(IntegrityError, match="by the rules comes another pledge-confirmed"):
        verify(lie)
    with switches.check_off(*REPEATED):
        verify(lie)


@attack(
    "pledge-after-the-vote",
    tries="takes in what was missing after the vote has ended, and then counts",
    stopped_by="after a deadline, nothing stands in the ledger before the decision",
)
def test_a_pledge_that_comes_too_late(council: Promising, switches: Switches) -> None:
    _too_little(council)
    asked = council.propose("ada", subjects.OpenPhase(phase="pilot"))
    council.vote(asked, yes=["ada", "bob"], no=["cyd"])
    council.now += 61_000
    with pytest.MonkeyPatch.context() as lies:
        lies.setattr(council.core.journal, "settle", None)
        council.brought("dan", "compute", "40 accelerator-hours", by="bob")
        council.brought("bob", "funds", "5000 EUR", by="ada")
    council.votes.settle()
    assert council.votes.assembly().governance.phases, "so it would be open"
    lie = council.ledger()
    with pytest.raises(IntegrityError, match="pledge-made stands before what was decided"):
        verify(lie)
    with switches.off("tapestry.audit.verify.nothing_overdue"):
        verify(lie)


def _starts(council: Promising) -> Ledger:
    plan = council.plan()
    council.ratified(plan)
    _too_little(council)
    council.put(machine.Start())
    return council.ledger()


@attack(
    "run-of-a-phase-that-is-not-open",
    tries="starts a ratified run whose phase lacks what it needs",
    stopped_by="a run of a phase starts once the phase is open",
)
def test_a_run_that_starts_too_early(council: Promising, switches: Switches) -> None:
    with pytest.raises(
        TapestryError, match="belongs to phase pilot, which is not open: it lacks compute: 60"
    ):
        _starts(council)
    again = Promising(council.root.parent / "again", "ada", "bob", "cyd", "dan")
    with again.core:
        again.founded()
        with Switches().off("tapestry.governance.effects._phase_open"):
            lie = _starts(again)
    with pytest.raises(IntegrityError, match="belongs to phase pilot, which is not open"):
        verify(lie)
    with switches.off("tapestry.governance.effects._phase_open"):
        verify(lie)


@attack(
    "phase-opened-before-it-asks",
    tries="has a name opened while no charter asks anything for it, and makes it a phase then",
    stopped_by="open are, under a changed charter, phases that the one before had too",
)
def test_a_phase_that_was_open_before(tmp_path: Path, switches: Switches) -> None:
    def opens(root: Path) -> Promising:
        council = Promising(root, "ada", "bob", "cyd", "dan")
        with council.core:
            council.adopt()
            council.ratified(council.plan())
            council.passed(subjects.OpenPhase(phase="pilot"))
            phases = council.charter(phases={"pilot": {"needs": {"compute": HOURS}, "runs": ("run",)}}).phases
            held = council.votes.assembly().governance.charter
            assert held is not None
            fields = {"revision": 2, "phases": phases}
            council.passed(subjects.ChangeCharter(charter=held.model_copy(update=fields)))
            council.put(machine.Start())
        return council

    with pytest.raises(TapestryError, match="which is not open"):
        opens(tmp_path / "one")

    def stays(governance: object, _changed: object) -> object:
        return governance.phases  # type: ignore[attr-defined]

    with switches.off("tapestry.governance.effects.still_open", stays):
        opens(tmp_path / "two")


@attack(
    "pledge-of-a-phase-that-ended",
    tries="has a phase dropped and named again, so that what was promised to the first opens the second",
    stopped_by="a pledge ends with the need it was made for",
)
def test_a_phase_that_is_named_again(tmp_path: Path, switches: Switches) -> None:
    def change(council: Promising, phases: dict[str, Any]) -> None:
        held = council.votes.assembly().governance.charter
        assert held is not None
        named = council.charter(phases=phases).phases
        fields = {"revision": held.revision + 1, "phases": named}
        council.passed(subjects.ChangeCharter(charter=held.model_copy(update=fields)))

    def again(root: Path) -> tuple[bool, Ledger]:
        """Whether the second of that name is opened."""
        council = Promising(root, "ada", "bob", "cyd", "dan")
        with council.core:
            council.founded()
            council.brought("ada", "compute", "100 accelerator-hours", by="bob")
            council.brought("bob", "funds", "5000 EUR", by="ada")
            change(council, {"text": {"needs": {"data.fr": "3 GB"}}})
            change(council, {"pilot": {**PILOT, "runs": ("larger",), "override": None}})
            council.decided("ada", subjects.OpenPhase(phase="pilot"), yes=council.nodes)
            return bool(council.votes.assembly().governance.phases), council.ledger()

    def stay(governance: object, _changed: object) -> object:
        return governance.pledges  # type: ignore[attr-defined]

    opened, honest = again(tmp_path / "one")
    assert not opened
    verify(honest)
    with switches.off("tapestry.governance.effects.still_held", stay):
        opened, lie = again(tmp_path / "two")
        assert opened
        verify(lie)
    with pytest.raises(IntegrityError, match="by the rules comes another proposal-decided"):
        verify(lie)
