"""Taking leave of random small runs: `make exits`, and a few of them in the ordinary tests.

Each run is one of the fault simulator's (members, nodes, rounds, late ones, kills, power cuts, a core that is
lost, drawn from the seed), and every node that got to its end is exported and checked.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tapestry.bundle import check
from tapestry.errors import BundleError
from tapestry.node import exit as exits
from tapestry.node.home import Home
from tapestry.node.kept import Kept
from tapestry.protocol.encoding import Bf16, Codec, Fp4, Int8, TopK
from tapestry.protocol.plan import Merge, Streaming
from tests.bundle.worlds import ExitWorld
from tests.federation.support import Federation
from tests.sim.faults import Faults


@dataclass
class Tally:
    """What came of some runs."""

    runs: int = 0
    bundles: int = 0
    contributions: int = 0
    crashes: int = 0
    incomplete: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    """Changes that a check passed over."""
    longest_s: float = 0.0


def one(seed: int, tally: Tally) -> None:
    """One run of the simulator, all its nodes."""

    def then(world: ExitWorld) -> None:
        for name, node in sorted(world.nodes.items()):
            where = f"seed {seed}, node {name}"
            exported(where, node.home.root, world.root / "bundles" / name, name, tally)

    tally.runs += 1
    tally.crashes += ExitWorld(seed, then, lie="").run().crashes


def exported(where: str, home: Path, out: Path, node: str, tally: Tally) -> None:
    """Export a node, check the bundle, and hold it against what its ledger has by another way of counting."""
    began = time.monotonic()
    try:
        exits.export(home, out)
        found = check.check(out)
        check.require_complete(found)
    except Exception as error:  # counted, and told in the end
        tally.refused.append(f"{where}: {type(error).__name__}: {error}")
        return
    tally.longest_s = max(tally.longest_s, time.monotonic() - began)
    held = {e.sequence for kind, e in Kept.of(Home(home)).lines() if kind == "entry" and named(e, node)}
    if {own.entry.sequence for own in found.own.values()} != held:
        tally.incomplete.append(where)
    tally.bundles += 1
    tally.contributions += len(found.own)


def named(entry: object, node: str) -> bool:
    """Whether an entry brings a contribution of a node, by its own words."""
    kinds = ("contribution-received", "contribution-committed", "contribution-late")
    return getattr(entry, "type", "") in kinds and getattr(entry, "body", {}).get("node") == node


def really(seed: int, tally: Tally) -> None:
    """A run of real processes with real training: algorithm, codec, fragments, members, rounds and kills are
    drawn; every node is exported."""
    rng = random.Random(seed)
    nodes, rounds = rng.randint(2, 3), rng.randint(1, 3)
    codec = rng.choice(CODECS)
    fragments = rng.choice((1, 1, 2, 3))
    plain = codec.error_feedback is None and rng.random() < 0.6
    merge = Merge(outer_rate=0.7, outer_momentum=0.6, influence_cap=0.9) if plain else SGD
    with tempfile.TemporaryDirectory(prefix="tapestry-exit-") as folder:
        root = Path(folder)
        made = Federation(
            root,
            seed_blobs=root / "seed",
            rounds=rounds,
            steps=rng.randint(1, 4),
            nodes=nodes,
            codec=codec,
            merge=merge,
            streaming=Streaming(fragments=fragments),
        )
        kills = [rng.uniform(2, 12) for _ in range(rng.randint(0, 2))]
        began = time.monotonic()

        def disturb() -> None:
            if kills and time.monotonic() - began > kills[0]:
                kills.pop(0)
                tally.crashes += 1
                made.kill(rng.choice([*made.names, "core"]))

        try:
            made.start()
            made.keep_going(timeout_s=240, between=disturb)
        finally:
            made.stop()
        tally.runs += 1
        for name in made.names:
            exported(f"real {seed}, node {name}", made.node(name), root / "bundles" / name, name, tally)


def every_byte(tally: Tally) -> int:
    """One small bundle, each of whose bytes is changed in turn; returns how many were."""
    done = 0

    def then(world: ExitWorld) -> None:
        nonlocal done
        out = world.root / "bundle"
        exits.export(world.nodes["ada-1"].home.root, out)
        rng = random.Random(1)
        for path in sorted(path for path in out.rglob("*") if path.is_file()):
            data = path.read_bytes()
            for at in range(len(data)):
                changed = bytearray(data)
                changed[at] ^= 1 << rng.randrange(8)
                path.write_bytes(changed)
                done += 1
                try:
                    check.check(out)
                except BundleError:
                    continue
                tally.accepted.append(f"{path.relative_to(out)}, byte {at}")
            path.write_bytes(data)
        check.check(out)

    ExitWorld(1, then, faults=Faults(), hostile=False, lie="", loses=False).run()
    return done


CODECS = (
    Codec(),
    Codec(matrices=Bf16(), embeddings=Bf16()),
    Codec(matrices=Int8(), embeddings=Int8()),
    Codec(matrices=TopK(), error_feedback=0.95),
    Codec(matrices=TopK(keep=16, side=16), embeddings=Fp4(), error_feedback=0.9),
)
SGD = Merge(outer="sgd", outer_rate=1.0, outer_momentum=0.0, influence_cap=0.9)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100, help="of the simulator")
    parser.add_argument("--first", type=int, default=1, help="seed of the first")
    parser.add_argument("--real", type=int, default=0, help="runs of real processes, half a minute each")
    parser.add_argument("--bytes", action="store_true", help="change every byte of a bundle, one by one")
    given = parser.parse_args()
    tally, began = Tally(), time.monotonic()
    for seed in range(given.first, given.first + given.runs):
        one(seed, tally)
    for seed in range(given.first, given.first + given.real):
        really(seed, tally)
    if given.bytes:
        print(f"{every_byte(tally):,} bytes of a bundle changed one by one, {len(tally.accepted)} accepted")
    print(
        f"{tally.runs} runs, {tally.crashes} crashes in them: {tally.bundles} bundles with "
        f"{tally.contributions} contributions, {len(tally.incomplete)} incomplete, "
        f"{len(tally.refused)} refused; the longest exit took {tally.longest_s:.2f} s; "
        f"{time.monotonic() - began:.0f} s in all"
    )
    wrong = (*tally.incomplete, *tally.refused, *tally.accepted)
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
