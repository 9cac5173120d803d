"""Answers of a lying core to a node that follows its ledger, and proofs that a core has lied.

An input of `replica` is several answers with a blank line between them; the node asks until there is none.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from tapestry.audit import file, fork
from tapestry.audit.file import Line
from tapestry.audit.fork import ForkProof
from tapestry.audit.verify import Verifier
from tapestry.errors import TapestryError, Unreachable
from tapestry.identity.notes import Note
from tapestry.ledger.checkpoint import Checkpoint
from tapestry.ledger.entries import Entry
from tapestry.node.home import Home
from tapestry.node.replica import Replica
from tapestry.node.setup import Consortium
from tests.fuzz import made
from tests.fuzz.anew import anew, changed
from tests.fuzz.mutate import INTEGERS, json_bytes, lines
from tests.fuzz.target import Parser, Target
from tests.fuzz.targets.signed import _memory_folder, _note

JOINED = Consortium(
    core_url="http://core",
    consortium=made.CONSORTIUM_ID,
    core_key=made.CORE.public_key,
    root_key=made.ROOT.public_key,
    ca=None,
)
WHOLE = made.ledger()[0]
BETWEEN = b"\n\n"


class Said:
    """Stands for a `CoreClient`: has said everything already."""

    def __init__(self, answers: Sequence[bytes]) -> None:
        self.left = list(answers)

    def ledger(self, *, after: int) -> bytes:
        if not self.left:
            raise Unreachable("the core has no more to say")
        return self.left.pop(0)


def _text(some: Sequence[Line]) -> bytes:
    return b"".join(map(file.encode, some))


def _signed(entries: Sequence[Entry]) -> Line:
    return ("checkpoint", made.tree_of(entries).signed())


def _other() -> tuple[Entry, ...]:
    """Another history of the same consortium: it parts from the first after its seventh entry."""
    seventh = made.ENTRIES[6]
    later = seventh.model_copy(update={"at": made.AT.replace("12:00", "12:01")})
    return (*made.ENTRIES[:6], later)


def _at(entries: int) -> int:
    """How many lines hold so many entries."""
    return next(n for n, (_, value) in enumerate(WHOLE) if value is made.ENTRIES[entries - 1]) + 1


def _seeds() -> list[bytes]:
    cut = _at(8)
    honest = (*WHOLE[:cut], _signed(made.ENTRIES[:8]))
    longer = (*WHOLE[: _at(12)], _signed(made.ENTRIES[:12]))
    last = WHOLE[-1:]
    several = (
        [WHOLE],
        [WHOLE[:cut], WHOLE[cut:], last],
        [honest, WHOLE[cut:], last, last],
        [honest, [_signed(_other())]],
        [longer, [_signed(_other())], [_signed(made.ENTRIES[:8])]],
        [longer, [_signed(made.ENTRIES[:8])], WHOLE[_at(12) :]],
    )
    return [BETWEEN.join(_text(each).rstrip(b"\n") for each in some) for some in several]


def _replica() -> Parser:
    home = Home(Path(tempfile.mkdtemp(prefix="tapestry-fuzz-", dir=_memory_folder())))

    def call(data: bytes) -> None:
        shutil.rmtree(home.ledger, ignore_errors=True)
        said = Said([each + b"\n" for each in data.split(BETWEEN)])
        refusal = _asked(said, home)
        for path in home.ledger.glob("fork-*.json"):
            assert ForkProof.from_bytes(path.read_bytes()).check() == made.CONSORTIUM_ID
        if refusal is not None:
            raise refusal

    return Parser(seeds=_seeds(), call=call, close=lambda: shutil.rmtree(home.root, ignore_errors=True))


def _asked(said: Said, home: Home) -> TapestryError | None:
    """Follow to the end; what was refused first. What was kept stays and holds, whatever comes later."""
    client: Any = said
    replica, refusal, kept = Replica(home, client, JOINED), None, 0
    while said.left:
        try:
            replica.follow(replica.size, again=True)
            if len(said.left) % 2 == 0:
                replica.keep()
                kept = replica.size
        except TapestryError as error:
            refusal = refusal or error
        assert replica.size >= kept, "what was signed on is gone"
    refusal = None if isinstance(refusal, Unreachable) else refusal
    replica.keep()
    again = Replica(home, client, JOINED)
    assert (again.size, again.checkpoint, again.state("run")) == (
        replica.size,
        replica.checkpoint,
        replica.state("run"),
    )
    if replica.size:
        found = Verifier().take(
            (*file.read(home.ledger / "ledger.jsonl"), ("checkpoint", replica.checkpoint))
        )
        assert found.consortium == made.CONSORTIUM_ID
        again.committed("run")
        if again.state("run") is not None:
            again.view("run").to_bytes()
    return refusal


def _mutate(random: Random, seed: bytes, seeds: Sequence[bytes]) -> bytes:
    """An answer or a line moved, changed, or changed and then signed anew; or one more head by the core."""
    answers = seed.split(BETWEEN)
    at, kind = random.randrange(len(answers)), random.randrange(8)
    if kind == 0:
        answers.insert(random.randrange(len(answers) + 1), answers[at])
    elif kind == 1:
        answers[at] = random.choice((b"", answers[at][:-9], random.choice(seeds), answers[0]))
    elif kind == 2:
        answers[at] = lines(json_bytes)(random, answers[at], seeds)
    elif kind == 3:
        answers.insert(at + 1, _head(random))
    else:
        # All answers are one ledger; where they were parted they are parted again.
        lengths = [len(answer.split(b"\n")) for answer in answers]
        every = [line for answer in answers for line in answer.split(b"\n") if line]
        try:
            every = changed(random, every) if kind < 7 else anew(every)
        except (ValueError, KeyError, AttributeError, StopIteration):
            return lines(json_bytes)(random, seed, seeds)
        answers, start = [], 0
        for length in lengths:
            answers.append(b"\n".join(every[start : start + length]))
            start += length
        answers[-1] = b"\n".join((answers[-1], *every[start:])).strip(b"\n")
    return BETWEEN.join(answers)


def _head(random: Random) -> bytes:
    """A head as a core signs it that says what it likes."""
    known = made.TREE.head(random.randrange(1, len(made.ENTRIES) + 1))
    size = random.choice((known.size, known.size + 1, abs(random.choice(INTEGERS)) % (1 << 53)))
    root = random.choice((known.root, bytes.fromhex(made.H[3])))
    text = Checkpoint(known.origin, size, root).text
    pair = random.choice((made.CORE, made.CORE, made.NEXT))
    return file.encode(("checkpoint", Note(text).signed(known.origin, pair).to_bytes().decode())).rstrip()


# -- proofs of two histories ------------------------------------------------------------------

HONEST = tuple(made.TREE.signed(size) for size in range(1, len(made.ENTRIES) + 1))
"""One history, signed again and again: nothing made of these proves anything."""


def _forks() -> Parser:
    other = made.tree_of(_other()).signed()
    seeds = [fork.prove(made.ENTRIES, HONEST[size - 1], other).to_bytes() for size in (7, 8, 12, 17)]

    def call(data: bytes) -> bytes:
        proof = ForkProof.from_bytes(data)
        proof.check()
        texts = {Note.from_bytes(text.encode()).text for text in (proof.first, proof.second)}
        assert not texts <= {Note.from_bytes(text.encode()).text for text in HONEST}, (
            "convicts an honest core"
        )
        return proof.to_bytes()

    return Parser(seeds=seeds, call=call)


def _forged(random: Random, seed: bytes, seeds: Sequence[bytes]) -> bytes:
    """Honest heads in the place of contradicting ones, heads signed anew, other hashes."""
    kind = random.randrange(4)
    if kind == 0:
        return json_bytes(random, seed, seeds)
    value = json.loads(seed)
    field = random.choice(("first", "second"))
    if kind == 1:
        value[field] = _note(random, value[field].encode(), [value[field].encode()]).decode(
            "utf-8", "replace"
        )
    else:
        value |= {"first": random.choice(HONEST), "second": random.choice(HONEST)}
        if random.random() < 0.5:
            path = json.loads(random.choice(seeds))
            value |= {"root": path["root"], "proof": path["proof"]}
    if random.random() < 0.7:
        every = [value["root"], *value["proof"], *made.H]
        every += [made.TREE.head(size).root.hex() for size in range(1, 18)]
        value["root"] = random.choice(every)
        value["proof"] = [random.choice((each, random.choice(every))) for each in value["proof"]]
        value["proof"] = value["proof"][: random.choice((0, 1, 64, 64))]
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode(
        "utf-8", "replace"
    )


TARGETS: Sequence[Target] = (
    Target(name="replica", open=_replica, mutate=_mutate),
    Target(name="fork", open=_forks, mutate=_forged),
)
