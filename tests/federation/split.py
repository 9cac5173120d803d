"""A core that shows two histories to two groups of nodes, with members who help it: does anybody train on a
base that no true quorum has attested, and is the core convicted once one word crosses from view to view?

    python -m tests.federation.split --trials 20

The core is copied with its key in the middle of a round; from then on each copy is a view of its own. Honest
nodes are real agents and gates that fetch for themselves; a colluding member contributes and attests in both
views, whatever they hold.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from tapestry.audit.fork import ForkProof
from tapestry.audit.heads import cosignature
from tapestry.core import operator
from tapestry.core.proofs import Proofs
from tapestry.core.runs import Runs
from tapestry.core.service import Core
from tapestry.host import files
from tapestry.identity.envelope import sign
from tapestry.identity.keyring import make_certificate
from tapestry.identity.keys import KeyPair
from tapestry.ledger.checkpoint import Checkpoint, origin_of
from tapestry.protocol.messages import Attestation
from tapestry.protocol.plan import Plan
from tapestry.protocol.views import RunView
from tapestry.rounds.state import RunState
from tests.chaos.scene import ChaosNode, Toys, fix_port
from tests.chaos.wire import NOWHERE
from tests.core.support import CoreUnderTest, Member, make_plan, time_at
from tests.node.support import wait_until

RUN = "run"
Carried = Literal["checkpoint", "contribution"]


def opens_rounds_without_quorum() -> None:
    """A lying core: it believes of every base that it was attested."""
    RunState.witnessed = property(lambda self: True)  # type: ignore[assignment, method-assign]


def takes_any_checkpoint() -> None:
    """A core that takes in what convicts it."""
    Runs._check_checkpoint = lambda self, said: None  # type: ignore[method-assign]


class Colluder(Member):
    """Signs in every view."""

    witness: KeyPair

    def admit(self, core: CoreUnderTest) -> None:
        self.witness = KeyPair.generate()
        more = make_certificate(
            self.root,
            member=self.name,
            node=self.node,
            role="witness",
            public_key=self.witness.public_key,
            not_before=time_at(-3600),
            expires=time_at(3600),
        )
        answer = self.join(operator.invite(core.root, self.name), self.certificate(), more)
        assert answer.status_code == 200, answer.text

    def send(self, view: View, plan: Plan, number: int, value: float, checkpoint: str | None = None) -> None:
        """Contribute to a round of this view."""
        self.url = view.core.url
        at = operator.view(view.core.root, RUN).current
        assert at is not None and at.round == number, at
        said = self.contribution(
            plan, self.send_delta(value), round=number, state=at.state, checkpoint=checkpoint
        )
        answer = self.contribute(said)
        assert answer.status_code == 200, answer.text

    def attest(self, view: View) -> bool:
        """Its word for this view's newest base; whether it was taken."""
        self.url = view.core.url
        head = operator.view(view.core.root, RUN).head
        with Core.open(view.core.root) as core:
            size = core.journal.of_round(RUN, head.round, "round-committed")[-1].sequence
            root = core.journal.tree_root(size)
        tree = Checkpoint(origin_of(self.consortium), size, root)
        said = Attestation(
            consortium=self.consortium,
            run=RUN,
            member=self.name,
            node=self.node,
            round=head.round,
            merges=head.merges,
            state=head.state,
            size=size,
            root=root.hex(),
            cosignature=cosignature(tree, self.name, self.node, self.witness, int(time.time())),
        )
        answer = self.ask("POST", f"/v1/runs/{RUN}/attestations", sign(said, self.witness).to_bytes())
        return answer.status_code == 200


@dataclass
class View:
    """One of the core's two faces, and who sees it."""

    core: CoreUnderTest
    nodes: list[ChaosNode]

    def run(self) -> RunView:
        return operator.view(self.core.root, RUN)

    def checkpoint(self) -> str:
        with Core.open(self.core.root) as core:
            return Proofs(core.journal, core.consortium).checkpoint().decode()


@dataclass
class Trial:
    """What was seen."""

    seed: str
    lies: bool
    carried: Carried
    bases: int = 0
    """Different ones after the second merge, among the views."""
    attested: list[int] = field(default_factory=list)
    """Members that attested it, by view."""
    jobs: int = 0
    """Given to honest nodes for a base without a true quorum."""
    waiting: list[str] = field(default_factory=list)
    """What each view's status says."""
    proofs: int = 0
    proof_s: float | None = None
    """From the message that crossed to the first proof that holds."""
    proof_rounds: int | None = None
    """Merges of the views meanwhile."""


class Split:
    """Members, the first merge, and then two views.

    Args:
        folder: for everything.
        honest: nodes, half of them in each view.
        colluders: members who sign in both views.
        quorum: of witnesses.
        seed: of the moment of the split.
        lies: the second view opens rounds that nobody may open.
        prepare: what else the first view's core does.
    """

    def __init__(
        self,
        folder: Path,
        *,
        honest: int,
        colluders: int,
        quorum: int,
        seed: str,
        lies: bool = False,
        deadline_s: float = 5.0,
    ) -> None:
        self.folder = folder
        self._random = random.Random(seed)
        self._lies = lies
        core = CoreUnderTest(folder / "core").start()
        fix_port(core)
        everybody = honest + colluders
        self.plan = make_plan(
            folder / "seed",
            witnesses=quorum,
            total=6,
            min_nodes=everybody,
            quorum=honest // 2 + colluders,
            deadline_s=deadline_s,
        )
        operator.plan(core.root, self.plan, folder / "seed")
        operator.start(core.root, RUN)
        self.toys = Toys(0.3)
        self.nodes = [ChaosNode(folder, core, f"h{number}") for number in range(honest)]
        for number, node in enumerate(self.nodes, start=1):
            node.jobs = self.toys.add(node.home, float(number))
        self.colluders = [
            Colluder(f"c{number}", core.consortium, url=core.url) for number in range(colluders)
        ]
        for colluder in self.colluders:
            colluder.admit(core)
            assert colluder.enrol(self.plan).status_code == 200
        self.views = [View(core, self.nodes)]

    def begin(self) -> None:
        """The first round, which all see alike."""
        self.toys.begin()
        for node in self.nodes:
            node.start(train=False)
        whole = self.views[0]
        wait_until(lambda: (at := whole.run().current) is not None and at.round == 1, 120)
        for number, colluder in enumerate(self.colluders):
            colluder.send(whole, self.plan, 1, 10.0 + number)
        wait_until(lambda: (at := whole.run().current) is not None and at.round == 2, 60, "no second round")

    def split(self) -> None:
        """From somewhere in the second round on there are two cores with one key."""
        time.sleep(self._random.uniform(0.0, 0.4))
        first = self.views[0].core
        seen = list(self.nodes)
        self._random.shuffle(seen)
        half = len(seen) // 2
        for node in seen[half:]:
            node.wire.become(NOWHERE)  # nothing of the first view reaches them from here on
        first.kill()
        root = self.folder / "other"
        shutil.copytree(first.root, root)
        other = object.__new__(CoreUnderTest)
        other.__dict__.update(first.__dict__, root=root, process=None, url="", members={})
        toml = root / "core.toml"
        port = first.url.rsplit(":", 1)[1]
        toml.write_text(toml.read_text().replace(f"port = {port}", "port = 0"))
        if self._lies:
            other.prepare = opens_rounds_without_quorum
        first.prepare = takes_any_checkpoint
        self.views = [View(first, seen[:half]), View(other, seen[half:])]
        for view in self.views:
            view.core.start()
        for node in self.views[1].nodes:
            node.wire.lead_to(fix_port(other))

    def collude(self, view: View, *, of_round: int, checkpoint: str | None = None) -> None:
        """Other updates in each view, so that the bases differ."""
        value = 20.0 + self.views.index(view)
        for number, colluder in enumerate(self.colluders):
            colluder.send(view, self.plan, of_round, value + number / 8, checkpoint if number == 0 else None)

    def lengthen(self, view: View) -> None:
        """By an entry that changes nothing."""
        self.colluders[0].url = view.core.url
        answer = self.colluders[0].score(self.plan, 3.0)
        assert answer.is_success, answer.text

    def merged(self, merges: int) -> None:
        """Both views have so many merges, and the colluders' word for it."""
        for view in self.views:
            wait_until(lambda view=view: view.run().head.merges >= merges, 60, "no merge")
            if view.run().head.merges == merges:
                for colluder in self.colluders:
                    colluder.attest(view)

    def attested(self, view: View) -> int:
        """Members who attested the newest base of a view."""
        with Core.open(view.core.root) as core:
            return len(core.runs.standing(RUN).state.witnesses)

    def jobs_after(self, merges: int) -> int:
        """Train jobs of honest nodes for a base of so many merges or more."""
        return sum(job.train and job.merges >= merges for node in self.nodes for job in node.jobs)

    def proofs(self) -> list[ForkProof]:
        """That nodes hold and that anybody can check."""
        paths = [path for node in self.nodes for path in node.home.ledger.glob("fork-*.json")]
        found = [ForkProof.from_bytes(path.read_bytes()) for path in paths]
        for proof in found:
            assert proof.check() == self.views[0].core.consortium
        return found

    def close(self) -> None:
        for node in self.nodes:
            node.close()
        self.toys.stop()
        for view in self.views:
            view.core.close()
        for colluder in self.colluders:
            colluder.http.close()


def trial(
    folder: Path, *, honest: int, colluders: int, quorum: int, seed: str, lies: bool, carried: Carried
) -> Trial:
    """One split; see `Trial`."""
    seen = Trial(seed=seed, lies=lies, carried=carried)
    split = Split(folder, honest=honest, colluders=colluders, quorum=quorum, seed=seed, lies=lies)
    try:
        split.begin()
        split.split()
        a, b = split.views
        split.collude(b, of_round=2)
        if carried == "contribution":
            _carry(split, seen, lambda: split.collude(a, of_round=2, checkpoint=b.checkpoint()))
        else:
            split.collude(a, of_round=2)
        split.merged(2)
        seen.bases = len({view.run().head.state for view in split.views})
        _settle(split)
        seen.jobs = split.jobs_after(2)
        seen.attested = [split.attested(view) for view in split.views]
        seen.waiting = [view.run().waiting_for or "" for view in split.views]
        if carried == "checkpoint":
            short, long = sorted(split.views, key=lambda view: view.run().sequence)
            port = int(long.core.url.rsplit(":", 1)[1])

            def cross() -> None:
                """One node of the shorter view sees the longer one. The other way, or were both as long as
                each other, it would hear of nothing until the long poll's time is over."""
                split.lengthen(long)
                short.nodes[0].wire.lead_to(port)

            _carry(split, seen, cross)
        seen.jobs = split.jobs_after(2)
        seen.proofs = len(split.proofs())
    finally:
        split.close()
    return seen


def _settle(split: Split, quiet_s: float = 2.0, timeout_s: float = 25.0) -> None:
    """Until for a while no view's ledger has grown, which in a view that goes on is never."""
    sizes, since, began = [0, 0], time.monotonic(), time.monotonic()
    while time.monotonic() - since < quiet_s and time.monotonic() - began < timeout_s:
        time.sleep(0.1)
        now = [view.run().sequence for view in split.views]
        if now != sizes:
            sizes, since = now, time.monotonic()


def _carry(split: Split, seen: Trial, cross: Callable[[], object]) -> None:
    """One word from view to view; how long until the core is convicted."""
    before = [view.run().head.merges for view in split.views]
    began = time.monotonic()
    cross()
    wait_until(split.proofs, 45, "no proof of the fork\n" + _logs(split))
    seen.proof_s = time.monotonic() - began
    after = [view.run().head.merges for view in split.views]
    seen.proof_rounds = max(b - a for a, b in zip(before, after, strict=True))


def _logs(split: Split) -> str:
    return "\n".join(f"== {node.name}\n{node.log()[-1500:]}" for node in split.nodes)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.federation.split", description=__doc__)
    parser.add_argument("--trials", type=int, default=20, help="in all, with those of earlier calls (20)")
    parser.add_argument("--calls", type=int, help="end after so many; go on another time")
    parser.add_argument("--honest", type=int, default=6, help="nodes (6)")
    parser.add_argument("--colluders", type=int, default=2, help="members (2)")
    parser.add_argument("--quorum", type=int, default=6, help="of witnesses (6)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("chaos"), help="folder of the totals")
    given = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends its processes as Ctrl-C does
    given.out.mkdir(parents=True, exist_ok=True)
    sizes = f"{given.honest}-{given.colluders}-{given.quorum}"
    path = given.out / f"split-{sizes}-seed-{given.seed}.json"
    known = json.loads(path.read_text()) if path.exists() else []
    last = given.trials if given.calls is None else min(given.trials, len(known) + given.calls)
    for number in range(len(known), last):
        with tempfile.TemporaryDirectory(prefix="split-", dir=given.out.absolute()) as folder:
            seen = trial(
                Path(folder),
                honest=given.honest,
                colluders=given.colluders,
                quorum=given.quorum,
                seed=f"{given.seed}/{number}",
                lies=number % 4 >= 2,
                carried="contribution" if number % 2 else "checkpoint",
            )
        known.append(asdict(seen))
        files.write_atomic(path, json.dumps(known, indent=1).encode())
        sys.stdout.write(json.dumps(known[-1]) + "\n")
        sys.stdout.flush()
    jobs = sum(each["jobs"] for each in known)
    proved = sum(each["proofs"] > 0 for each in known)
    sys.stdout.write(f"{len(known)} trials: {jobs} jobs without a true quorum, {proved} times a proof\n")
    return 1 if jobs or proved < len(known) else 0


if __name__ == "__main__":
    sys.exit(main())
