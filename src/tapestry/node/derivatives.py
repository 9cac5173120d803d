"""A member's side of the registry: publish what an owner shows of a derivative, take it back, list all.

Called by the owner, never by the agent. What is sent is in the log of signed messages, like all that leaves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tapestry.errors import InputError
from tapestry.identity.envelope import Envelope, sign
from tapestry.node import keys, settings, setup
from tapestry.node.certified import said
from tapestry.node.home import Home
from tapestry.node.leaks import Leaks
from tapestry.node.outbox import Outbox
from tapestry.node.touched import Touched
from tapestry.protocol.derivative import DerivativeRecord, ShownBase, ShownDerivative


@dataclass(frozen=True)
class Listed:
    """Args:
    records: of all members, each signed by a key of that member.
    rounds: how many merges each run of the consortium has behind it, by its name.
    """

    records: tuple[DerivativeRecord, ...]
    rounds: dict[str, int]


def publish(
    home: Home,
    name: str,
    shown: ShownDerivative | None,
    public: tuple[str, ...],
    *,
    owner: str | None,
    core_url: str | None = None,
) -> DerivativeRecord:
    """Tell the core what is shown of a derivative; or, with None, that nothing is any more.

    Args:
        owner: by its lineage; None where it is only taken back.

    Raises:
        InputError: it is another member's.
        Leak: the record holds a canary of the node's text.
        Unreachable: no core; or what the core answers.
    """
    given, pair = settings.load(home).node, keys.load_pair(home)
    if owner is not None and owner != given.member:
        raise InputError(
            f"{name} is of {owner}, and the node in {home.root} is of {given.member}",
            hint="publish it from a node of its owner",
        )
    with setup.connect(home, core_url=core_url) as client:
        outbox = Outbox(home, client.traffic)
        record = DerivativeRecord(
            consortium=setup.load_consortium(home).consortium,
            member=given.member,
            node=given.name,
            derivative=name,
            at=client.hello().time,
            shown=shown,
            public=public,
        )
        Leaks(home).check("what is shown of a derivative", record.to_bytes())
        envelope = sign(record, pair).to_bytes()
        outbox.signed("derivative", name, envelope)
        client.publish_derivative(envelope)
        outbox.count(now=True)
    return record


def listed(home: Home, *, core_url: str | None = None) -> Listed:
    """What all members show of their derivatives.

    Raises:
        SignatureError: a record that its member did not sign.
        Unreachable: no core.
    """
    consortium = setup.load_consortium(home).consortium
    with setup.connect(home, core_url=core_url) as client:
        envelopes = [Envelope.from_json(value) for value in client.derivatives()]
        records = tuple(said(home, client, envelopes, DerivativeRecord, consortium))
        bases = [r.shown.base for r in records if r.shown is not None and r.shown.base is not None]
        there = {str(each["run"]) for each in client.runs()["runs"]} & {base.run for base in bases}
        rounds = {run: client.run(run).head.round for run in sorted(there)}
    return Listed(records, rounds)


def standing_on(records: Iterable[DerivativeRecord], touched: Touched) -> tuple[DerivativeRecord, ...]:
    """Those whose base, as their owner shows it, descends from a dataset: by its state, or run and round.

    From the first such base on each of its run does, also those that this node's ledger does not hold yet: it
    was withdrawn, and the run went on.
    """
    states = {base.state for run in touched.runs for base in run.bases}
    since = {run.run: run.bases[0].round for run in touched.runs if run.bases}

    def stands(base: ShownBase | None) -> bool:
        if base is None:
            return False
        later = base.run in since and base.round is not None and base.round >= since[base.run]
        return later or base.state in states

    return tuple(each for each in records if each.shown is not None and stands(each.shown.base))
