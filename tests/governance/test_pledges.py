"""Amounts have one form, thresholds are what was pledged and confirmed; the second verifier says the same."""

from __future__ import annotations

import json
import random
from base64 import b64decode
from types import SimpleNamespace
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tapestry.errors import Conflict, NotFound, Refused, TapestryError
from tapestry.governance import pledging
from tapestry.governance.capture import check, overrides, refusals
from tapestry.governance.charter import Charter
from tapestry.governance.contradictions import Fault
from tapestry.governance.delivered import Delivered, Work
from tapestry.governance.machine import Moment, Step
from tapestry.governance.phase_status import shown
from tapestry.governance.phases import find
from tapestry.governance.pledge import MAX_HELD, Confirmation, Pledge, key_of
from tapestry.governance.prose import sections
from tapestry.governance.resources import MAX_BASE, UNITS, Amount, amount
from tapestry.governance.state import Assembly, Governance, Suspended
from tapestry.governance.thresholds import reckon, why_not_open
from tapestry.identity.envelope import sign
from tapestry.ledger.entries import make_entry
from tapestry.protocol.clock import add_seconds
from tapestry.protocol.messages import Contribution
from tests.audit import second, second_pledges, second_votes
from tests.governance import made
from tests.governance.test_machine import HERE, NAMES, START, VOTE, ring_of

NEEDS: Final = {"compute": "100 accelerator-hours", "data.fr": "3 GB", "funds": "5000 EUR"}
PHASE: Final[dict[str, Any]] = {"needs": NEEDS, "members": 2, "runs": ("run",), "override": "at least 3/4"}
CHANGE: Final[dict[str, Any]] = {"change-charter": {"of": "all", "approval": "at least 3/4"}}


def charter(*, roles: tuple[str, ...] = ("member", "steward"), kinds: Any = CHANGE, **fields: Any) -> Charter:
    seats: dict[str, Any] = {name: {"seats": 1, "roles": roles} for name in NAMES}
    seats["dan"] = {"seats": 1}
    phases = {"pilot": {**PHASE, **fields}, "later": {"needs": {"storage": "1 TB"}, "counts": "pledged"}}
    holders = {"signatures": 2, "holders": NAMES[:3]}
    return made.charter((1,) * 4, members=seats, release=holders, kinds=kinds, phases=phases)


def held(rules: Charter | None = None) -> Assembly:
    rules = rules or charter()
    governance = Governance(charter=rules, charters={rules.digest: rules})
    return Assembly(ring=ring_of(*NAMES), governance=governance)


# -- amounts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "form", "base"),
    [
        ("2000 accelerator-hours", "2000 accelerator-hours", 2000),
        ("1 accelerator-hour", "1 accelerator-hours", 1),
        ("1.5 TB", "1500 GB", 1_500_000_000_000),
        ("3000 GB", "3 TB", 3_000_000_000_000),
        ("0 PB", "0 B", 0),
        ("10000 Mbit/s", "10 Gbit/s", 10_000_000),
        ("2.5 full-time", "250 % of full-time", 250),
        ("100 % of full-time", "1 full-time", 100),
        ("0 full-time", "0 % of full-time", 0),
        ("100000 EUR", "100000 EUR", 100_000),
    ],
)
def test_an_amount_has_one_form(text: str, form: str, base: int) -> None:
    found = amount(text)
    assert (str(found), found.base) == (form, base)
    assert amount(form) == found
    assert second_pledges.amount(form) == (found.of, base)


@pytest.mark.parametrize(
    "text",
    ["20 gpu-days", "20", "GB", "3 gb", "-3 GB", "1e3 GB", "1,000 GB", "3  GB", "3 GB ", "5 EURO",
     "5 eur", "٣ GB",
     "0.5 B", "0.001 full-time", "0.5 EUR", "1001 PB", ""],
)  # fmt: skip
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(ValueError, match=r"unit|whole number|counted"):
        amount(text)
    with pytest.raises(ValueError):
        second_pledges.amount(text)


@given(of=st.sampled_from([*UNITS, "EUR", "CHF"]), base=st.integers(0, MAX_BASE))
def test_both_read_every_amount_alike(of: str, base: int) -> None:
    text = str(Amount(of=of, base=base))
    assert amount(text) == Amount(of=of, base=base)
    assert second_pledges.amount(text) == (of, base)


@given(number=st.integers(0, 1000), unit=st.sampled_from([u for units in UNITS.values() for u in units]))
def test_the_second_takes_the_one_form_alone(number: int, unit: str) -> None:
    text = f"{number} {unit}"
    try:
        second_pledges.amount(text)
    except ValueError:
        assert str(amount(text)) != text
    else:
        assert str(amount(text)) == text


# -- phases of a charter ------------------------------------------------------------------------


def faults(rules: Charter) -> list[Fault]:
    return list(find(rules))


@pytest.mark.parametrize(
    ("fields", "where", "says"),
    [
        ({"needs": {"compute": "20 TB"}}, "phases.pilot.needs.compute", "no amount of compute"),
        ({"needs": {"funds": "20 TB"}}, "phases.pilot.needs.funds", "no amount of funds"),
        ({"needs": {"storage": "0 B"}}, "phases.pilot.needs.storage", "always met"),
        ({"members": 5}, "phases.pilot.members", "there are 4"),
        ({"roles": ("member",)}, "phases.pilot.counts", "nobody may confirm"),
        ({"override": "more than 1/2"}, "phases.pilot.override", "no more than what opens a phase anyway"),
        ({"override": "at least 4/5"}, "phases.pilot.override", "harder than a change of the charter"),
        ({"kinds": {}}, "phases.pilot.override", "harder than a change of the charter"),
    ],
)
def test_a_phase_that_contradicts_itself(fields: dict[str, Any], where: str, says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        charter(**fields)
    (first, *_) = caught.value.errors()
    assert first["ctx"]["where"] == where and says in first["msg"]
    assert first["ctx"]["way_out"]
    control = charter()
    assert not faults(control) and not refusals(control)


def test_with_few_who_confirm_one_could_keep_a_phase_shut() -> None:
    rules = charter().model_dump(mode="json")
    rules["members"]["cyd"]["roles"] = ["member"]
    with pytest.raises(ValidationError, match="only ada and bob may confirm"):
        Charter.model_validate_json(json.dumps(rules))
    rules["phases"]["pilot"]["counts"] = "pledged"
    assert Charter.model_validate_json(json.dumps(rules)).phases


def test_a_run_belongs_to_one_phase() -> None:
    rules = charter().model_dump(mode="json")
    rules["phases"]["later"]["runs"] = ["run"]
    with pytest.raises(ValidationError, match="run run belongs to phase later and to phase pilot"):
        Charter.model_validate_json(json.dumps(rules))


def test_who_could_open_a_phase_below_its_needs() -> None:
    (found,) = overrides(charter())
    assert (found.phase, found.to_pass) == ("pilot", 3)
    assert not found.forces.ones and not found.forces.names(2)
    assert not found.blocks.ones and len(found.blocks.names(2)) == 6


def test_two_who_could_open_a_phase_alone_are_told() -> None:
    seats = {name: {"seats": 3 if name in "ab" else 1, "roles": ("member", "steward")} for name in "abcde"}
    kinds: Any = {"change-charter": {"of": "all", "approval": "at least 2/3"}}
    phases = {"pilot": {"needs": {"storage": "1 TB"}, "override": "at least 2/3"}}
    by_votes = {"quorum_of": "votes"}
    rules = made.charter((3, 3, 1, 1, 1), usual=by_votes, members=seats, kinds=kinds, phases=phases)
    (found,) = overrides(rules)
    assert found.forces.names(2) == [["a", "b"]] and not found.forces.ones and found.to_pass == 2
    assert "A with b could force that." in str([each.lines for each in sections(rules, check(rules))])


def test_an_old_charter_is_as_it_was() -> None:
    rules = made.charter()
    assert rules.phases is None and "phases" not in json.loads(rules.to_bytes())
    state = held(rules).to_json()
    assert "pledges" not in state["governance"]


# -- pledges ------------------------------------------------------------------------------------


class Room:
    """Members who pledge; what is recorded, the second verifier sees too."""

    def __init__(self, rules: Charter | None = None) -> None:
        self.assembly, self.at, self.sequence = held(rules), START, 100
        rules = self.assembly.governance.charter
        assert rules is not None
        beside = SimpleNamespace(consortium=HERE, roots=dict.fromkeys(NAMES), valid=self._valid)
        self.votes = second_votes.Votes(beside, second)
        self.votes.charter = json.loads(rules.to_bytes())

    def _valid(self, data: bytes, kind: str, _now: int) -> tuple[Any, str]:
        said = json.loads(b64decode(json.loads(data)["payload"]))
        assert said["format"] == f"tapestry.{kind}"
        return said, ""

    def _took(self, step: Step) -> None:
        if step.event is not None:
            entry = make_entry(self.sequence, self.at, "consortium", step.event).model_dump(mode="json")
            self.votes.entry(entry, 0)
        self.assembly = step.assembly
        self.sequence += 1

    def moment(self) -> Moment:
        return Moment(consortium=HERE, at=self.at, sequence=self.sequence)

    def said(self, name: str, resource: str, text: str, **fields: Any) -> Pledge:
        rules = self.assembly.governance.charter
        assert rules is not None
        known = {
            "consortium": HERE, "member": name, "charter": rules.digest, "phase": "pilot",
            "resource": resource, "amount": text, "number": 1, "text": "",
            "dataset": "letters" if resource.startswith("data.") else None,
        }  # fmt: skip
        found = Pledge(**(known | fields))
        before = self.assembly.governance.pledges.get(key_of(found))
        number = fields.get("number", 1 if before is None else before.number + 1)
        return found.model_copy(update={"number": number})

    def pledge(self, name: str, resource: str, text: str, **fields: Any) -> str:
        said = self.said(name, resource, text, **fields)
        self._took(pledging.pledge(self.assembly, sign(said, VOTE[name]), self.moment()))
        return said.digest

    def confirm(self, name: str, pledge: str, *, stands: bool = True, number: int | None = None) -> None:
        every = {each.pledge: each for each in self.assembly.governance.pledges.values()}
        last = every[pledge].word(name) if pledge in every else None
        number = number or (1 if last is None else last.number + 1)
        said = Confirmation(
            consortium=HERE, member=name, pledge=pledge, number=number, stands=stands, text=""
        )
        self._took(pledging.confirm(self.assembly, sign(said, VOTE[name]), self.moment()))

    def away(self, name: str) -> None:
        governance = self.assembly.governance
        until = add_seconds(self.at, 60)
        suspended = {**governance.suspended, name: Suspended(decision="1" * 64, until=until)}
        changed = governance.model_copy(update={"suspended": suspended})
        self.assembly = Assembly(ring=self.assembly.ring, governance=changed)
        self.votes.suspended[name] = ("1" * 64, until)

    def out(self, name: str) -> None:
        """Expelled."""
        ring = self.assembly.ring
        gone = ring.members[name].model_copy(update={"expelled": self.sequence})
        ring = ring.model_copy(update={"members": {**ring.members, name: gone}})
        self.assembly = Assembly(ring=ring, governance=self.assembly.governance)
        self.votes.expelled[name] = "1" * 64

    def go(self, phase: str = "pilot") -> bool:
        """What both say."""
        found = reckon(self.assembly, phase, self.at).go
        assert self.votes.pledges.go(phase, self.at) == found
        return found


def enough(room: Room) -> dict[str, str]:
    found = {
        "compute": room.pledge("ada", "compute", "100 accelerator-hours"),
        "data.fr": room.pledge("bob", "data.fr", "3 GB"),
        "funds": room.pledge("dan", "funds", "5000 EUR"),
    }
    assert not room.go(), "nothing is confirmed"
    for pledge, by in zip(found.values(), ("bob", "cyd", "ada"), strict=True):
        room.confirm(by, pledge)
    assert room.go()
    return found


def test_what_is_confirmed_is_counted() -> None:
    room = Room()
    pledges = enough(room)
    found = reckon(room.assembly, "pilot", room.at)
    assert str(found.total("compute", "confirmed")) == "100 accelerator-hours" and found.members == 3
    room.confirm("bob", pledges["compute"], stands=False)
    assert not room.go()
    missing = reckon(room.assembly, "pilot", room.at).missing
    assert missing == ("compute: 0 accelerator-hours of 100 accelerator-hours confirmed",)
    room.confirm("cyd", pledges["compute"])
    assert room.go()


def test_less_counts_less_and_a_new_pledge_is_confirmed_anew() -> None:
    room = Room()
    enough(room)
    less = room.pledge("ada", "compute", "99 accelerator-hours")
    assert not room.go()
    room.confirm("bob", less)
    assert not room.go()
    room.confirm("bob", room.pledge("ada", "compute", "101 accelerator-hours"))
    assert room.go()
    room.pledge("ada", "compute", "0 accelerator-hours")
    assert not room.go()


def test_a_member_that_is_away_brings_and_confirms_nothing() -> None:
    room = Room()
    enough(room)
    room.away("cyd")  # has confirmed the data
    assert not room.go()
    room.at = add_seconds(room.at, 61)
    assert room.go()
    room.away("dan")
    assert not room.go()
    with pytest.raises(Refused, match="may not pledge"):
        room.pledge("dan", "compute", "1 accelerator-hours")


def test_who_is_expelled_brings_and_confirms_nothing() -> None:
    for name in ("cyd", "dan"):  # one has confirmed, the other pledged
        room = Room()
        enough(room)
        room.out(name)
        assert not room.go()


def test_several_datasets_are_several_pledges() -> None:
    room = Room()
    one = room.pledge("ada", "data.fr", "1 GB", dataset="one")
    two = room.pledge("ada", "data.fr", "2 GB", dataset="two")
    for pledge in (one, two):
        room.confirm("bob", pledge)
    assert str(reckon(room.assembly, "pilot", room.at).total("data.fr", "confirmed")) == "3 GB"
    room.go()


def test_what_was_pledged_is_pledged_once() -> None:
    room = Room()
    room.pledge("dan", "storage", "1 TB", phase="later")
    assert room.go("later"), "a word is enough there"
    said = sign(room.said("dan", "storage", "1 TB", phase="later", number=1), VOTE["dan"])
    assert pledging.pledge(room.assembly, said, room.moment()).event is None
    with pytest.raises(Conflict, match="its next one is number 2"):
        room.pledge("dan", "storage", "2 TB", phase="later", number=1)
    with pytest.raises(Conflict, match="its next one is number 2"):
        room.pledge("dan", "storage", "2 TB", phase="later", number=3)


@pytest.mark.parametrize(
    ("resource", "text", "fields", "says"),
    [
        ("compute", "20 gpu-days", {}, "in no unit that is known"),
        ("compute", "3 GB", {}, "cannot be held against it"),
        ("funds", "5000 CHF", {}, "cannot be held against it"),
        ("data.fr", "3000 MB", {}, "not in its one form"),
        ("storage", "3 GB", {}, "needs no storage"),
        ("data.fr", "3 GB", {"dataset": None}, "names no dataset"),
        ("compute", "3 accelerator-hours", {"dataset": "letters"}, "names a dataset"),
        ("compute", "3 accelerator-hours", {"phase": "none"}, "has no phase none"),
        ("compute", "3 accelerator-hours", {"charter": "7" * 64}, "was written under charter"),
    ],
)
def test_a_pledge_that_is_refused(resource: str, text: str, fields: dict[str, Any], says: str) -> None:
    room = Room()
    before = room.assembly
    with pytest.raises((Refused, Conflict, NotFound), match=says) as caught:
        room.pledge("ada", resource, text, **fields)
    assert caught.value.hint and room.assembly is before
    said = room.said("ada", resource, text, **fields)
    event = {"member": "ada", "pledge": said.digest, "envelope": sign(said, VOTE["ada"]).to_bytes().decode()}
    entry = {"type": "pledge-made", "body": event, "at": room.at, "sequence": 1}
    with pytest.raises(ValueError):
        room.votes.entry(entry, 0)


def test_nobody_floods_the_others_with_pledges() -> None:
    room = Room()
    for number in range(MAX_HELD):
        room.pledge("ada", "data.fr", "1 GB", dataset=f"set{number}")
    with pytest.raises(Conflict, match="which is the most"):
        room.pledge("ada", "data.fr", "1 GB", dataset="more")
    room.pledge("ada", "data.fr", "2 GB", dataset="set0")
    room.pledge("bob", "data.fr", "1 GB")


def test_nobody_floods_the_state_with_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pledging, "MAX_WORDS", 2)
    monkeypatch.setattr(second_pledges, "WORDS", 2)
    room = Room()
    made = [room.pledge("ada", "data.fr", "1 GB", dataset=f"set{number}") for number in range(3)]
    for pledge in made[:2]:
        room.confirm("bob", pledge)
    with pytest.raises(Refused, match="which is the most"):
        room.confirm("bob", made[2])
    said = Confirmation(consortium=HERE, member="bob", pledge=made[2], number=1, stands=True, text="")
    event = {"member": "bob", "pledge": made[2], "envelope": sign(said, VOTE["bob"]).to_bytes().decode()}
    with pytest.raises(ValueError):
        room.votes.entry({"type": "pledge-confirmed", "body": event, "at": room.at, "sequence": 1}, 0)
    room.confirm("bob", made[0], stands=False)
    room.confirm("cyd", made[2])


def test_without_phases_nobody_pledges() -> None:
    seats = {name: {"seats": 1} for name in NAMES}
    rules = made.charter((1,) * 4, members=seats, release={"signatures": 2, "holders": NAMES[:3]})
    with pytest.raises(NotFound, match="has no phase pilot"):
        Room(rules).pledge("ada", "compute", "1 B")


@pytest.mark.parametrize("seed", range(6))
def test_both_count_alike_whatever_is_pledged(seed: int) -> None:
    drawn, room = random.Random(seed), Room()
    for _ in range(60):
        room.at = add_seconds(room.at, drawn.choice([0, 10, 70]))
        every = [each.pledge for each in room.assembly.governance.pledges.values()]
        name, act = drawn.choice(NAMES), drawn.random()
        try:
            if act < 0.5 or not every:
                resource = drawn.choice([*NEEDS])
                text = {"compute": "{} accelerator-hours", "data.fr": "{} MB", "funds": "{} EUR"}[resource]
                size = drawn.choice([0, 1, 40, 60, 999, 1500, 3000, 5000])
                room.pledge(name, resource, str(amount(text.format(size))))
            elif act < 0.93:
                room.confirm(name, drawn.choice(every), stands=drawn.random() < 0.9)
            elif act < 0.99 or room.votes.expelled:
                room.away(name)
            else:
                room.out(name)
        except TapestryError as refused:
            assert refused.hint
        room.go()
    assert Assembly.from_json(room.assembly.to_json()) == room.assembly


# -- opening ------------------------------------------------------------------------------------


def test_a_phase_opens_at_its_thresholds_or_by_its_override() -> None:
    from fractions import Fraction

    room = Room()

    def hinders(yes: Fraction, *, opening: bool = False) -> str | None:
        found = why_not_open(room.assembly, "pilot", room.at, opening=opening, yes=yes)
        may = room.votes.pledges.may_open("pilot", room.at, opening=opening, yes=yes)
        assert may == (found is None)
        return found

    assert hinders(Fraction(0), opening=True) is None, "pledges may come until the end of the vote"
    assert "below its thresholds: compute: 0" in str(hinders(Fraction(2, 3)))
    assert hinders(Fraction(3, 4)) is None
    enough(room)
    assert hinders(Fraction(1, 2)) is None
    assert "has no phase other" in str(why_not_open(room.assembly, "other", room.at, opening=True))


# -- what was delivered -------------------------------------------------------------------------


def contribution(round_: int, environment: dict[str, str]) -> Contribution:
    plain: dict[str, Any] = {
        "consortium": HERE, "run": "run", "plan": HERE, "round": round_, "fragment": 0, "member": "ada",
        "node": "n", "state": HERE, "delta": HERE, "tokens": 1000, "steps": 4, "data_manifest": HERE,
        "environment": environment, "nonce": "0" * 32, "checkpoint": None,
    }  # fmt: skip
    return Contribution(**plain)


def entries(*happened: tuple[str, dict[str, Any]]) -> Any:
    for number, (type_, body) in enumerate(happened, start=1):
        yield SimpleNamespace(sequence=number, scope="run", type=type_, body=body)


def test_what_the_ledger_shows_of_work() -> None:
    opened = {"round": 1, "fragment": 0, "opened_ms": 1000}
    handed = {
        "member": "ada",
        "tokens": 1000,
        "steps": 4,
        "received_ms": 1000 + 3_600_000,
        "contribution": "c",
    }
    for environment, hours in (
        ({"accelerator": "Made Up 1", "ranks": "8"}, 8.0),
        ({"accelerator": "Made Up 1"}, 1.0),
        ({"ranks": "8"}, None),
        ({"accelerator": "Made Up 1", "ranks": "9" * 64}, None),
    ):
        found = Delivered()
        steps = (
            ("round-opened", opened),
            ("contribution-received", handed),
            ("contribution-accepted", {"contribution": "c"}),
        )
        for entry in entries(*steps):
            named = entry.type == "contribution-received"
            found.take(entry, contribution(1, environment) if named else None)
        (work,) = found.of(("run",)).values()
        assert (work.contributions, work.tokens, work.steps, work.accelerator_hours) == (1, 1000, 4, hours)
        assert found.of(("other",)) == {}
    refused = Delivered()
    for entry in entries(("contribution-received", handed), ("contribution-refused", {"contribution": "c"})):
        refused.take(entry, None)
    assert refused.of(("run",)) == {}


def test_a_phase_is_shown_with_what_is_not_measured() -> None:
    room = Room()
    enough(room)
    work = {"ada": Work(contributions=2, tokens=10, steps=4, accelerator_ms=5_400_000)}
    found = shown(reckon(room.assembly, "pilot", room.at), work)
    assert found["go"] and not found["missing"] and found["members"] == {"needed": 2, "bring": 3}
    by = {each["resource"]: each for each in found["resources"]}
    assert by["compute"]["delivered"] == "at most 1.5 accelerator-hours"
    assert by["funds"]["delivered"] is None
    assert [row["member"] for row in by["compute"]["members"]] == ["ada"]
