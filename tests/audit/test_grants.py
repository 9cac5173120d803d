"""Certificates made from ledgers of real cores, and what is found of them without the ledger."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestry.audit.grants import Grants
from tapestry.audit.papers import Checked, Known, check
from tapestry.core.journal import Decision, run_scope
from tapestry.errors import (
    Conflict,
    EntitlementError,
    FormatError,
    InputError,
    IntegrityError,
    NotFound,
    Refused,
)
from tapestry.governance import proposal as subjects
from tapestry.governance.entitlement import RIGHTS, Paper, lineage
from tapestry.identity.keys import KeyPair
from tapestry.ledger.entries import Entry
from tapestry.protocol.plan import Origin
from tapestry.rounds import machine
from tapestry.rounds.weights import UNIT
from tests.audit import second, second_papers
from tests.audit.council import Council
from tests.audit.released import NAMES, grants, known, released, signed, trained
from tests.audit.support import Ledger, verify


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Council, Ledger]]:
    scene = released(tmp_path_factory.mktemp("released") / "core")
    with scene.core:
        yield scene, scene.ledger()


def both(paper: Paper, ledger: Ledger) -> Checked:
    """What both verifiers say of a paper that holds."""
    key = ledger.key.public_key
    assert second_papers.check(paper.to_bytes() + b"\n", key, second) == paper.certificate.member
    return check(paper, known(ledger))


def fails(paper: Paper, ledger: Ledger, why: str) -> None:
    """By both verifiers."""
    with pytest.raises(EntitlementError, match=why):
        check(paper, known(ledger))
    with pytest.raises(ValueError):
        second_papers.check(paper.to_bytes() + b"\n", ledger.key.public_key, second)


def test_who_met_the_rule_has_a_right(played: tuple[Council, Ledger]) -> None:
    _, ledger = played
    made = grants(ledger)
    found = {each.member: each for each in made.grants("one")}
    assert {name for name in NAMES if found[name].verdict.granted} == {"ada", "bob"}
    assert found["cyd"].verdict.why == "it gave 1 of 2 rounds (entitlements.needs = both)"
    assert [found[name].given.rounds for name in NAMES] == [3, 3, 1, 0]
    assert sum(each.given.weight for each in found.values()) == 3 * UNIT
    assert found["ada"].given.tokens == 1500 and found["cyd"].given.steps == 4
    with pytest.raises(Refused, match="cyd has no right to release one: it gave 1 of 2 rounds"):
        made.paper("one", "cyd")
    with pytest.raises(NotFound, match="no release two"):
        made.paper("two", "ada")
    with pytest.raises(NotFound, match="eve was no member"):
        made.paper("one", "eve")
    assert {each.member for each in made.release("one").signers} == {"ada", "bob", "cyd"}
    assert second.verify(ledger.to_bytes().splitlines(keepends=True))


def test_a_certificate_is_checked_without_the_ledger(played: tuple[Council, Ledger]) -> None:
    scene, ledger = played
    paper = grants(ledger).paper("one", "bob")
    assert grants(ledger).paper("one", "bob") == paper, "everybody makes the same bytes"
    assert Grants(ledger.lines, verify=False).paper("one", "bob") == paper
    with pytest.raises(EntitlementError, match=r"0 countersignatures.*2 of 3 holders") as none:
        check(paper, known(ledger))
    assert "tapestry entitlement sign" in str(none.value.hint)
    whole = Paper.from_bytes(signed(paper, scene, "cyd", "ada").to_bytes())
    found = both(whole, ledger)
    said = found.certificate
    assert (found.signed, found.needed) == (("ada", "cyd"), 2)
    assert (said.member, said.release, said.rights) == ("bob", "one", RIGHTS)
    assert said.root_key == scene.nodes["bob"].root.public_key
    assert said.base.state == scene.state().head and said.base.merges == 3
    assert check(whole, Known(root=found.head.root.hex())) == found
    assert check(whole, known(ledger), base=said.base.base) == found
    with pytest.raises(EntitlementError, match="not for 777777777777") as other:
        check(whole, known(ledger), base="7" * 64)
    assert other.value.hint and "a certificate of its own" in other.value.hint
    with pytest.raises(InputError, match="nothing was named"):
        check(whole, Known())
    with pytest.raises(EntitlementError, match="not by the core's key that you gave"):
        check(whole, Known(core_key=KeyPair.generate().public_key))
    with pytest.raises(EntitlementError, match="another root"):
        check(whole, Known(root="7" * 64))


def test_every_byte_counts(played: tuple[Council, Ledger]) -> None:
    """Each field of the certificate changed, signed anew by nobody: found."""
    scene, ledger = played
    whole = signed(grants(ledger).paper("one", "bob"), scene, "cyd", "ada")
    said = whole.certificate
    for name in type(said).model_fields:
        if name in ("format", "version"):
            continue
        value = getattr(said, name)
        if isinstance(value, int):
            value += 1
        elif isinstance(value, str):
            value = value.replace("20", "21", 1) if name == "at" else "7" * 64 if len(value) == 64 else "eve"
        parts = {
            "rights": ("use",),
            "base": said.base.model_copy(update={"base": "7" * 64}),
            "asked": said.asked.model_copy(update={"rounds": 1}),
            "given": said.given.model_copy(update={"tokens": 1}),
        }
        other = parts.get(name, value)
        changed = whole.model_copy(update={"certificate": said.model_copy(update={name: other})})
        with pytest.raises(EntitlementError):
            check(changed, known(ledger))


def test_it_stays_good_when_keys_end_and_members_go(tmp_path: Path) -> None:
    scene = released(tmp_path / "core")
    with scene.core:
        before = grants(scene.ledger()).paper("one", "bob")
        scene.revoke(scene.nodes["ada"], scene.nodes["ada"].vote)
        scene.nodes["ada"].vote, old = KeyPair.generate(), scene.nodes["ada"].vote
        scene.core.consortium.certify(
            scene.nodes["ada"].certificate(scene.nodes["ada"].vote, "vote", named=False)
        )
        scene.passed(subjects.Expel(member="bob"), "bob")
        scene.now += 10**12
        scene.wait(1)
        ledger = scene.ledger()
        later = grants(ledger).paper("one", "bob")
        assert later.certificate == before.certificate, "what was granted does not change"
        assert both(signed(later, scene, "ada", "cyd", keys={"ada": old}), ledger).signed
        wrong = signed(later, scene, "ada", "cyd")
        with pytest.raises(EntitlementError, match="was not its vote key when the release was accepted"):
            check(wrong, known(ledger))


@pytest.mark.parametrize("keep", [True, False])
def test_who_has_left_keeps_what_the_charter_says(keep: bool, tmp_path: Path) -> None:
    scene = trained(tmp_path / "core", entitlements={"rounds": 2, "leavers_keep": keep})
    with scene.core:
        scene.passed(subjects.Expel(member="bob"), "bob")
        scene.passed(subjects.AcceptRelease(release="one", state=scene.state().head), "bob")
        ledger = scene.ledger()
        found = {each.member: each.verdict for each in grants(ledger).grants("one")}
        assert found["ada"].granted and found["bob"].granted == keep
        if keep:
            paper = grants(ledger).paper("one", "bob")
            assert both(signed(paper, scene, "ada", "cyd"), ledger).certificate.member == "bob"
            assert "bob" not in {each.member for each in grants(ledger).release("one").signers}
        else:
            with pytest.raises(Refused, match="leavers_keep"):
                grants(ledger).paper("one", "bob")


def test_later_charters_and_members_change_nothing(tmp_path: Path) -> None:
    """The rule is that of the charter which the vote was under; who joins after its opening has no right."""
    scene = trained(tmp_path / "core", entitlements={"rounds": 0, "weight": "0"})
    with scene.core:
        head = scene.state().head
        scene.passed(subjects.Admit(member="eve"))
        asked = scene.propose("ada", subjects.AcceptRelease(release="one", state=head))
        scene.join("eve")
        scene.vote(asked, yes=NAMES)
        scene.end()
        held = scene.votes.assembly().governance.charter
        assert held is not None
        rules = held.entitlements.model_copy(update={"rounds": 50})
        scene.passed(
            subjects.ChangeCharter(charter=held.model_copy(update={"revision": 2, "entitlements": rules})),
            "eve",
        )
        scene.passed(subjects.AcceptRelease(release="two", state=head))
        scene.passed(subjects.RevokeRelease(release="two"))
        new = KeyPair.generate()
        scene.passed(subjects.ReplaceRootKey(member="bob", root_key=new.public_key), "bob")
        scene.passed(subjects.AcceptRelease(release="three", state=head), "bob")
        scene.passed(subjects.AcceptRelease(release="none", state="7" * 64), "bob")
        ledger = scene.ledger()
        verify(ledger)
        made = grants(ledger)
        assert {each.member for each in made.grants("one") if each.verdict.granted} == {*NAMES}
        late = next(each for each in made.grants("one") if each.member == "eve")
        assert late.verdict.why == "it joined after the vote on the release was opened"
        assert not any(each.verdict.granted for each in made.grants("two"))
        assert made.revoked == {"two"}
        with pytest.raises(Conflict, match="no merge in this ledger"):
            made.grants("none")
        paper = made.paper("one", "bob")
        assert paper.certificate.root_key == scene.nodes["bob"].root.public_key
        assert both(signed(paper, scene, "ada", "bob"), ledger).certificate.revision == 1


def test_a_replaced_root_key_and_another_core_are_proven(tmp_path: Path) -> None:
    scene = trained(tmp_path / "core")
    with scene.core:
        new = KeyPair.generate()
        scene.passed(subjects.ReplaceRootKey(member="bob", root_key=new.public_key), "bob")
        scene.passed(subjects.AcceptRelease(release="one", state=scene.state().head), "bob")
        scene.succeed(*(scene.nodes[name] for name in ("ada", "cyd", "dan")))
        ledger = scene.ledger()
        paper = signed(grants(ledger).paper("one", "bob"), scene, "ada", "cyd")
        assert paper.certificate.root_key == new.public_key
        assert both(paper, ledger).core_key == scene.core.consortium.core_key.public_key
        with pytest.raises(EntitlementError, match="not by the core's key"):
            check(paper, Known(core_key=scene.former[0][1].public_key))


def test_a_root_key_of_later_is_not_that_of_the_release(tmp_path: Path) -> None:
    """Signed by holders who do not look: the key must have been there when the release was decided."""
    scene = released(tmp_path / "core")
    with scene.core:
        new = KeyPair.generate()
        scene.passed(subjects.ReplaceRootKey(member="bob", root_key=new.public_key), "bob")
        scene.passed(subjects.AcceptRelease(release="two", state=scene.state().head), "bob")
        ledger = scene.ledger()
        before, after = grants(ledger).papers("one", ["bob"]), grants(ledger).papers("two", ["bob"])
        one, two = next(before), next(after)
        shown = {
            Entry.from_bytes(each.entry.encode()).sequence: each for each in (*one.entries, *two.entries)
        }
        entries = tuple(shown[place] for place in sorted(shown))
        both(signed(two.model_copy(update={"entries": entries}), scene, "ada", "cyd"), ledger)
        lie = one.certificate.model_copy(update={"root_key": new.public_key})
        paper = one.model_copy(update={"entries": entries, "certificate": lie})
        fails(signed(paper, scene, "ada", "cyd"), ledger, "before the decision gives bob the root key")


def test_a_paper_has_one_form(played: tuple[Council, Ledger]) -> None:
    scene, ledger = played
    whole = signed(grants(ledger).paper("one", "bob"), scene, "ada", "cyd")
    both(whole, ledger)
    turned = whole.model_copy(update={"signatures": whole.signatures[::-1]})
    fails(turned, ledger, "not in the order of members")
    first = whole.signatures[0]
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    loose = first.sig[:-3] + letters[letters.index(first.sig[-3]) + 1] + "=="
    assert base64.b64decode(loose) == base64.b64decode(first.sig), "the same signature"
    with pytest.raises(FormatError, match="sig"):
        Paper.from_bytes(whole.to_bytes().replace(first.sig.encode(), loose.encode()))


def test_a_run_that_repeats_another_counts_what_came_before(tmp_path: Path) -> None:
    """A base that a run made which began in the middle of another has contributions of both."""
    scene = trained(tmp_path / "core")
    with scene.core:
        plan = scene.state().plan
        entries = scene.ledger().entries
        opened = [each for each in entries if each.type == "round-opened"][1].body
        again = plan.model_copy(
            update={
                "run": "again",
                "initial_state": opened["state"],
                "origin": Origin(run="run", round=1, merges=1, plan=plan.digest),
                "rounds": plan.rounds.model_copy(update={"total": 2, "min_nodes": 2}),
            }
        )
        step = machine.plan_run(again)  # without a look at its blobs, which a merge here does not make
        scene.core.journal.apply(
            run_scope("again"), lambda *_: Decision(state=step.state, events=step.events)
        )
        scene.ratified(again)
        scene.put(machine.Start(), "again")
        for name in ("ada", "dan"):
            scene.enrol(scene.nodes[name], "again")
        for name in ("ada", "dan"):
            scene.send(scene.nodes[name], "again")
        scene.merge("again")
        scene.passed(subjects.AcceptRelease(release="one", state=scene.state("again").head))
        found = {each.member: each.given for each in grants(scene.ledger()).grants("one")}
        assert {name: found[name].rounds for name in NAMES} == {"ada": 2, "bob": 1, "cyd": 1, "dan": 1}
        assert {each.of_merges for each in found.values()} == {2}


def test_votes_by_contribution_are_repeated_without_the_rules_of_runs(tmp_path: Path) -> None:
    """`--no-verify` believes the merges, and counts them where votes go by them."""
    by: dict[str, Any] = {"weights": "contribution", "equal_part": "1/2", "cap": "1/3"}
    scene = released(tmp_path / "core", voting=by)
    with scene.core:
        ledger = scene.ledger()
    weighed = [each.body.get("contributions") for each in ledger.entries if each.type == "proposal-opened"]
    assert weighed[-1] == {"ada": 3, "bob": 3, "cyd": 1, "dan": 0}, "the control: they weigh something"
    for verify_ in (True, False):
        assert Grants(ledger.lines, verify=verify_).paper("one", "bob").certificate.given.rounds == 3
    with pytest.raises(IntegrityError, match="by the rules comes another proposal-opened"):
        Grants(ledger.changed(ledger.of("round-closed"), merged=[]).lines, verify=False)


def test_a_ledger_that_nobody_has_verified_ends_with_a_word(played: tuple[Council, Ledger]) -> None:
    _, ledger = played
    for type_ in ("run-planned", "round-opened", "contribution-received", "round-closed", "round-committed"):
        with pytest.raises(FormatError, match="not as the rules give it"):
            Grants(ledger.put(ledger.of(type_), body={}).lines, verify=False)
    assert lineage("a", 7, {"a": ("b", 5), "b": ("a", 9)}) == {"a": 7, "b": 5}, "and with no end in a circle"
