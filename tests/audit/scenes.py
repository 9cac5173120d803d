"""Runs of every kind."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from tapestry.errors import Refused, TapestryError
from tapestry.governance import proposal as subjects
from tapestry.governance.charter import Charter
from tapestry.identity.envelope import Envelope
from tapestry.identity.keys import KeyPair
from tapestry.protocol import canonical
from tapestry.protocol.messages import Attestation
from tapestry.protocol.plan import Merge, Plan
from tapestry.rounds import machine
from tests.audit.council import Council
from tests.audit.promising import Promising
from tests.audit.stage import Node, Scene, on_core
from tests.audit.support import Ledger


def abandoned(root: Path) -> Ledger:
    """A round below quorum at its deadline is given up, then one whose merge is not finite."""
    with on_core(root) as scene:
        ada, bob = scene.node("ada"), scene.node("bob")
        scene.running(ada, bob, rounds_below_quorum="abandon", rounds_total=1)
        scene.send(ada)
        scene.wait(61)
        for node in (bob, ada):
            scene.send(node)
        scene.now += 5
        scene.put(machine.MergeFailed(round=2, fragment=0, reason="merge-not-finite", detail="tensor “b”"))
        for node in (bob, ada):
            scene.send(node)
        scene.merge()
        scene.score(ada, 1.2345678901234567)
        return scene.ledger()


def widened(root: Path) -> Ledger:
    """Below quorum at the deadline, a round waits; it widens for who enrols then, and is merged late."""
    with on_core(root) as scene:
        ada, bob = scene.node("ada"), scene.node("bob")
        scene.running(ada, bob, rounds_total=1)
        scene.send(ada)
        at = scene.state().current
        assert at is not None
        scene.now = at.deadline_ms
        scene.enrol(scene.node("bea"))
        cyd = scene.node("cyd")
        scene.enrol(cyd)
        scene.wait(1)
        scene.send(cyd)
        scene.merge()
        return scene.ledger()


def late(root: Path) -> Ledger:
    """One contribution enters a later merge, one after a first try that was refused; one comes too late."""
    with on_core(root) as scene:
        ada, bob = scene.node("ada"), scene.node("bob")
        scene.running(
            ada, bob, rounds_quorum=1, rounds_staleness=2, rounds_total=4, merge_staleness_factor=0.3
        )
        slow = scene.envelope(bob)
        for number in range(4):
            if number == 1:
                scene.hand_in(slow, bob, reason="not-finite")
                state = scene.state().find(1, 0)
                assert state is not None
                again = scene.envelope(bob, round=1, state=state.state, tokens=777)
                scene.hand_in(again, bob)
            if number == 3:
                too_late = scene.envelope(bob, round=1, state=state.state, tokens=778)
                with pytest.raises(Refused):
                    scene.core.runs.contribute("run", too_late, bob.signer)
            scene.send(ada)
            if scene.state().current.phase == "training":
                scene.wait(61)
            if number == 2:
                with pytest.raises(TapestryError):
                    scene.core.runs.contribute("run", scene.envelope(bob), bob.signer)
            scene.merge()
        return scene.ledger()


def revealed(root: Path) -> Ledger:
    """Commitments, then bytes: a round below quorum once it is sealed, for what one revealed is not good and
    another's never comes; a late one; a node that leaves while others wait for it; a revision without."""
    with on_core(root) as scene:
        ada, bob, cyd = scene.node("ada"), scene.node("bob"), scene.node("cyd")
        plan = scene.running(
            ada, bob, cyd, rounds_min_nodes=3, rounds_total=4, rounds_reveal_s=4.0305, rounds_staleness=1
        )
        scene.reveal(*[scene.commit(node) for node in (cyd, ada, bob)])
        scene.merge()
        _, shown = scene.commit(bob), scene.commit(ada)
        scene.wait(61)
        scene.reveal(shown, reason="not-finite")
        scene.wait(5)
        ended = scene.state().find(2, 0)
        assert ended is not None and ended.abandoned
        scene.commit(cyd, round=2, state=ended.state)
        scene.reveal(*[scene.commit(node) for node in (ada, bob)])
        scene.put(machine.Withdraw(node="cyd-1", reason="left"))
        scene.merge()
        scene.enrol(cyd)
        rounds = plan.rounds.model_copy(update={"reveal_s": None})
        scene.core.runs.revise(plan.model_copy(update={"revision": 2, "rounds": rounds}))
        scene.reveal(*[scene.commit(node) for node in (ada, bob)])
        scene.merge()
        for node in (ada, bob, cyd):
            scene.send(node)
        scene.merge()
        return scene.ledger()


def after_the_end(root: Path) -> Ledger:
    """What comes while a merge is made is noted as late, as is what comes after the run."""
    with on_core(root) as scene:
        ada, bob = scene.node("ada"), scene.node("bob")
        scene.running(ada, bob, rounds_quorum=1, rounds_total=1, rounds_deadline_s=0.0305)
        own = scene.envelope(bob)
        scene.send(ada)
        for again in (own, scene.envelope(bob)):
            with pytest.raises(Refused):
                scene.core.runs.contribute("run", again, bob.signer)
            if scene.state().status != "finished":
                scene.merge()
        return scene.ledger()


def revised(root: Path) -> Ledger:
    """Other weights, steps and deadlines from the second round on; then the run ends before its time."""
    with on_core(root) as scene:
        ada, bob = scene.node("ada"), scene.node("bob")
        plan = scene.running(ada, bob, rounds_total=9)
        for number in range(3):
            scene.send(ada, tokens=3000)
            if number == 0:
                merge = Merge(weighting="equal", influence_cap=0.5)
                second = plan.model_copy(update={"revision": 2, "merge": merge, "title": "Ünlü “two” \t\x7f"})
                scene.core.runs.revise(second)
            if number == 2:
                rounds = second.rounds.model_copy(update={"total": 3})
                scene.core.runs.revise(second.model_copy(update={"revision": 3, "rounds": rounds}))
            scene.send(bob, tokens=1000)
            scene.merge()
        return scene.ledger()


def withdrawn(root: Path) -> Ledger:
    """One node is withdrawn by the operator in the middle of a round, one loses its key and comes back."""
    with on_core(root) as scene:
        ada, bob, cyd = scene.node("ada"), scene.node("bob"), scene.node("cyd")
        scene.running(ada, bob, cyd, rounds_min_nodes=3, rounds_quorum=1, rounds_total=2)
        scene.send(ada)
        scene.put(machine.Withdraw(node="bob-1", reason="operator"))
        scene.revoke(cyd, cyd.key)
        scene.put(machine.Withdraw(node="cyd-1", reason="key-revoked"))
        scene.merge()
        cyd.key = KeyPair.generate()
        scene.core.consortium.certify(cyd.certificate(cyd.key))
        scene.enrol(cyd)
        scene.send(ada)
        scene.merge()
        return scene.ledger()


def rotated(root: Path) -> Ledger:
    """A node changes its key between two contributions."""
    with on_core(root) as scene:
        ada, bob = scene.node("ada"), scene.node("bob")
        scene.running(ada, bob)
        for _ in range(2):
            scene.send(ada)
            scene.rotate(ada)
            scene.send(bob)
            scene.merge()
        return scene.ledger()


def fragments(root: Path) -> Ledger:
    """Two fragments take turns, beside another run of the same consortium."""
    with on_core(root) as scene:
        ada, bob = scene.node("ada"), scene.node("bob")
        scene.running(ada, bob, run="two", fragments=2, rounds_total=3)
        scene.running(ada, bob, run="one", rounds_total=1)
        for number in range(3):
            scene.send(ada, "two")
            if number < 1:
                scene.send(ada, "one")
                scene.send(bob, "one")
            scene.send(bob, "two")
            scene.merge("two")
        scene.merge("one")
        return scene.ledger()


def capped(root: Path) -> Ledger:
    """A cap that two members reach, one of them with two nodes; fewer steps by pace and schedule."""
    with on_core(root) as scene:
        ada, bob, cyd = scene.node("ada"), scene.node("bob"), scene.node("cyd")
        second = scene.node("ada", "zoe-2", like=ada)
        scene.running(
            ada, bob, cyd, second,
            rounds_min_nodes=4, rounds_quorum=3, rounds_total=2,
            merge_influence_cap=0.37, merge_weighting="tokens-per-step",
            inner_paces={"bob": 0.45}, inner_schedule=({"after_merges": 1, "steps": 5},),
        )  # fmt: skip
        for steps in ((10, 4, 10, 10), (5, 2, 3, 5)):
            for node, own in zip(
                (cyd, ada, bob, second), (steps[2], steps[0], steps[1], steps[3]), strict=True
            ):
                scene.send(node, steps=own, tokens={"cyd": 500}.get(node.member, 9000 if own > 5 else 1999))
            scene.merge()
        return scene.ledger()


def anything(root: Path, seed: int = 0, inputs: int = 150) -> Ledger:
    """Whatever comes in any order, much of it refused: late, twice, to rounds over, by nodes not asked."""
    draw = random.Random(seed)
    with on_core(root) as scene:
        nodes = [scene.node(name) for name in ("ada", "bob", "cyd", "dan")]
        named = ("ada", "cyd", "dan") if seed % 2 else ()
        plan = scene.running(
            *nodes, rounds_total=12, rounds_quorum=2, rounds_staleness=seed % 3, merge_influence_cap=0.6,
            rounds_below_quorum=draw.choice(["wait", "abandon"]),
            witness_quorum=min(seed, 2), witness_members=named,
        )  # fmt: skip
        sent: list[tuple[Envelope, Node]] = []
        for _ in range(inputs):
            with suppress(TapestryError):
                _something(scene, draw, plan, nodes, sent)
        return scene.ledger()


def _something(
    scene: Scene, draw: random.Random, plan: Plan, nodes: list[Node], sent: list[tuple[Envelope, Node]]
) -> None:
    scene.now += draw.randrange(2000)
    state, node = scene.state(), draw.choice(nodes)
    at = state.current
    match draw.choices(range(9), weights=(16, 4, 3, 2, 1, 1, 1, 8, 8))[0]:
        case 0 if state.rounds:
            trained = draw.choice([state.rounds[-1], state.rounds[-1], draw.choice(state.rounds)])
            fields = {"round": trained.round, "state": trained.state, "tokens": draw.randrange(1, 8000)}
            size = draw.randrange(scene.core.journal.tree_head()[0] + 1)
            fields["checkpoint"] = draw.choice([None, scene.head(size)])
            given = scene.envelope(node, **fields)
            sent.append((given, node))
            scene.hand_in(given, node, reason=draw.choice([None, None, None, "not-finite"]))
        case 1 if sent:
            again, by = draw.choice(sent)
            scene.core.runs.contribute("run", again, by.signer)
        case 2:
            scene.wait(draw.choice([1, 61]))
        case 3:
            scene.enrol(node)
        case 4:
            scene.put(
                machine.Withdraw(node=node.name, reason=draw.choice(["operator", "left", "left", "left"]))
            )
        case 5:
            newest = state.next_plan or state.plan
            rounds = plan.rounds.model_copy(update={"staleness": draw.randrange(4), "deadline_s": 30.5})
            fields = {"revision": newest.revision + 1, "rounds": rounds, "witness": newest.witness}
            scene.core.runs.revise(plan.model_copy(update=fields))
        case 6:
            scene.rotate(node)
        case 8 if state.merges:
            scene.attest(node)
        case _ if at is not None and at.phase == "merging":
            if draw.random() < 0.2:
                failed = machine.MergeFailed(round=at.round, fragment=0, reason="merge-not-finite", detail="")
                scene.put(failed)
            else:
                scene.merge()


def witnessed(root: Path) -> Ledger:
    """Two of three members must attest a base before the next round opens; the third comes after that, and
    one to the last base before the run ends. Then the quorum is raised."""
    with on_core(root) as scene:
        ada, bob, cyd = (scene.node(name) for name in ("ada", "bob", "cyd"))
        second = scene.node("ada", "zoe-2", like=ada)
        nodes = (ada, bob, cyd, second)
        plan = scene.running(*nodes, rounds_total=3, rounds_min_nodes=4, witness_quorum=2)
        for number in range(3):
            for node in nodes:
                scene.send(node)
            scene.merge()
            scene.attest(ada)
            scene.attest(second)
            assert scene.state().current is None, "two nodes of one member are one witness"
            if number == 0:
                rounds = plan.rounds.model_copy(update={"deadline_s": 30.0})
                witness = plan.witness.model_copy(update={"quorum": 3})
                stricter = {"revision": 2, "rounds": rounds, "witness": witness}
                scene.core.runs.revise(plan.model_copy(update=stricter))
            scene.attest(bob)
            if number:
                assert not scene.state().witnessed, "the revision is in force"
            scene.attest(cyd)
        assert scene.state().status == "finished"
        return scene.ledger()


def named_witnesses(root: Path) -> Ledger:
    """Two members are named as witnesses; one attests with a key of the whole member, another only once the
    next round is open, or the run is over."""
    with on_core(root) as scene:
        ada, bob, cyd = (scene.node(name) for name in ("ada", "bob", "cyd"))
        whole = KeyPair.generate()
        scene.core.consortium.certify(bob.certificate(whole, "witness", named=False))
        scene.running(ada, bob, cyd, rounds_min_nodes=3, witness_quorum=1, witness_members=("bob", "ada"))
        for _ in range(2):
            for node in (ada, bob, cyd):
                scene.send(node)
            scene.merge()
            with pytest.raises(Refused):
                scene.attest(cyd)
            _attest_for_member(scene, bob, whole)
            assert scene.state().current is not None or scene.state().status == "finished"
            scene.attest(ada)
        return scene.ledger()


def _attest_for_member(scene: Scene, node: Node, key: KeyPair) -> None:
    """As the machine takes it: over HTTP a node signs with a key of its own."""
    envelope = scene.attestation(node, key=key)
    said = envelope.unverified(Attestation)
    fields = {name: getattr(said, name) for name in ("node", "member", "round", "merges", "state")}
    scene.put(machine.Attest(**fields, attestation=scene.core.store.put(envelope.to_bytes())))


def waiting(root: Path) -> Ledger:
    """No witness speaks: the run stands still, whatever the time and whoever enrols."""
    with on_core(root) as scene:
        ada, bob = scene.node("ada"), scene.node("bob")
        scene.running(ada, bob, witness_quorum=2)
        for node in (ada, bob):
            scene.send(node)
        scene.merge()
        scene.attest(bob)
        scene.wait(3600)
        scene.enrol(scene.node("cyd"))
        scene.wait(3600)
        assert scene.state().current is None
        return scene.ledger()


def seen(root: Path) -> Ledger:
    """Contributions name heads that the core has signed: the newest, the first ones, that of no entries."""
    with on_core(root) as scene:
        ada, bob = scene.node("ada"), scene.node("bob")
        scene.running(ada, bob, rounds_total=4)
        for size in (None, 1, 7, 0):
            scene.send(ada, checkpoint=scene.head(size))
            scene.send(bob, checkpoint=scene.head())
            scene.merge()
        return scene.ledger()


def succeeded(root: Path) -> Ledger:
    """Another key speaks for the core, twice, for which most members have signed; heads are then its own."""
    with on_core(root) as scene:
        ada, bob, cyd = (scene.node(name) for name in ("ada", "bob", "cyd"))
        scene.running(ada, bob, cyd, rounds_total=3, rounds_min_nodes=3, witness_quorum=1)
        scene.send(ada, checkpoint=scene.head())
        scene.succeed(bob, cyd)
        scene.send(bob, checkpoint=scene.head())
        scene.send(cyd)
        scene.merge()
        scene.attest(ada)
        scene.succeed(ada, bob, cyd, bob)
        for node in (ada, bob, cyd):
            scene.send(node, checkpoint=scene.head(5))
        scene.merge()
        return scene.ledger()


def governed(root: Path) -> Ledger:
    """A run that starts and goes on by votes; a suspension, an appeal, an expulsion, another charter."""
    scene = Council(root, "ada", "bob", "cyd", "dan")
    with scene.core:
        ada, bob, cyd, _ = scene.nodes.values()
        charter = scene.adopt()
        plan = scene.plan(rounds_total=3, rounds_quorum=1)
        scene.ratified(plan)
        scene.put(machine.Start())
        for node in (ada, bob, cyd):
            scene.enrol(node)
        scene.send(ada, train_ms=1230, bytes=4567)
        lost = scene.propose("dan", subjects.OpenPhase(phase="two"))
        scene.vote(lost, yes=["dan"], no=["ada"])
        scene.vote(lost, yes=["ada"])
        scene.end(30)
        suspended = scene.passed(subjects.Suspend(member="cyd"), "cyd")
        scene.put(machine.Withdraw(node="cyd-1", reason="suspended"))
        with pytest.raises(Refused):
            scene.enrol(cyd)
        scene.decided("cyd", subjects.HearAppeal(member="cyd", decision=suspended), yes=["ada", "bob", "dan"])
        scene.enrol(cyd)
        scene.passed(subjects.Expel(member="dan"), "dan")
        scene.passed(subjects.Admit(member="eve"), "dan")
        eve = scene.join("eve")
        longer = plan.model_copy(
            update={"revision": 2, "rounds": plan.rounds.model_copy(update={"total": 4})}
        )
        scene.passed(subjects.RevisePlan(plan=longer), "dan")
        scene.put(machine.Revise(plan=longer))
        named = charter.model_dump(mode="json")
        named |= {
            "revision": 2,
            "members": dict.fromkeys(("ada", "bob", "cyd", "eve"), named["members"]["ada"]),
        }
        gates = {"scored_by": 1, "worse_by_at_most": "1/50"}
        named["release"] |= {"holders": ["ada", "bob", "cyd"], "gates": gates}
        changed = Charter.from_bytes(canonical.encode(named))
        scene.passed(subjects.ChangeCharter(charter=changed), "dan")
        scene.decided(
            "eve", subjects.AcceptRelease(release="one", state="1" * 64), yes=["ada", "bob"], no=["eve"]
        )
        scene.dispute("cyd", round=None)
        scene.dispute("eve", about="dan")
        scene.passed(subjects.RevokeRelease(release="one"), "dan")
        scene.passed(subjects.AppointOperator(member="bob"), "dan", "bob")
        new = KeyPair.generate()
        scene.passed(subjects.ReplaceRootKey(member="eve", root_key=new.public_key), "dan", "eve")
        eve.root = new
        scene.core.consortium.certify(eve.certificate(KeyPair.generate()))
        scene.propose("ada", subjects.OpenPhase(phase="three"))
        scene.merge()
        scene.send(bob)
        return scene.ledger()


def phased(root: Path) -> Ledger:
    """Pledges and confirmations, replaced and taken back; a run that waits for its phase; a phase that is
    voted for too early, one that is opened at its thresholds and one by an override; another charter."""
    scene = Promising(root, "ada", "bob", "cyd", "dan")
    with scene.core:
        scene.founded(later={"needs": {"storage": "2 TB", "people": "150 % of full-time"}, "runs": ("two",)})
        plan = scene.plan(rounds_total=2, rounds_quorum=1)
        scene.ratified(plan)
        first = scene.brought("ada", "compute", "60 accelerator-hours", "bob")
        scene.brought("bob", "funds", "5000 EUR", "ada")
        with pytest.raises(Refused, match="belongs to phase pilot, which is not open"):
            scene.put(machine.Start())
        scene.decided("ada", subjects.OpenPhase(phase="pilot"), yes=["ada", "bob"], no=["cyd"])
        mine = scene.brought("dan", "compute", "40 accelerator-hours", "ada")
        scene.confirm("ada", mine, stands=False)
        scene.confirm("cyd", first)
        scene.confirm("cyd", mine)
        suspended = scene.passed(subjects.Suspend(member="cyd"), "cyd")
        scene.decided("dan", subjects.OpenPhase(phase="pilot"), yes=["ada", "bob"])
        scene.decided("cyd", subjects.HearAppeal(member="cyd", decision=suspended), yes=["ada", "bob", "dan"])
        scene.pledge("ada", "compute", "70 accelerator-hours")
        scene.confirm("bob", scene.pledge("ada", "compute", "60 accelerator-hours"))
        scene.decided("dan", subjects.OpenPhase(phase="pilot"), yes=["ada", "bob"])
        scene.put(machine.Start())
        scene.pledge("bob", "people", "50 % of full-time", phase="later")
        scene.decided("cyd", subjects.OpenPhase(phase="later"), yes=["ada", "bob", "cyd"])
        charter = scene.votes.assembly().governance.charter
        assert charter is not None and charter.phases is not None
        later = charter.phases["later"].model_copy(update={"override": "at least 3/4"})
        fields = {"revision": 2, "phases": {"pilot": charter.phases["pilot"], "later": later}}
        scene.passed(subjects.ChangeCharter(charter=charter.model_copy(update=fields)))
        scene.decided("cyd", subjects.OpenPhase(phase="later"), yes=["ada", "bob", "cyd"])
        scene.enrol(scene.nodes["ada"])
        scene.enrol(scene.nodes["bob"])
        scene.send(scene.nodes["ada"], environment={"accelerator": "Made Up 1", "ranks": "8"})
        scene.pledge("dan", "storage", "0 B", phase="later")
        return scene.ledger()


SCENES: Final[dict[str, Callable[[Path], Ledger]]] = {
    each.__name__: each
    for each in (
        abandoned,
        widened,
        revealed,
        late,
        after_the_end,
        revised,
        withdrawn,
        rotated,
        fragments,
        capped,
        witnessed,
        named_witnesses,
        waiting,
        seen,
        succeeded,
        governed,
        phased,
        anything,
    )
}
