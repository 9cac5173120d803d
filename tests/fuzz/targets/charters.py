"""Charters: the file that people write, and the message that the ledger names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tapestry.cli import charterfile
from tapestry.governance import capture, pledging, prose
from tapestry.governance.charter import Charter
from tapestry.governance.electorate import founding
from tapestry.governance.pledge import Pledge
from tapestry.governance.resources import amount
from tapestry.governance.tally import Ballot, Question, Tally, tally
from tests.fuzz.mutate import json_bytes
from tests.fuzz.target import Parser, Target
from tests.fuzz.targets.plans import _mutate

EXAMPLES = Path(__file__).parents[3] / "examples"
SAMPLES = (3, 5, "phases")
OPENED = "2026-05-01T12:00:00.000Z"


def _use(charter: Charter) -> None:
    """What readers do with one: check it, put it into words, count a vote by it."""
    prose.sections(charter, capture.check(charter))
    capture.refusals(charter)
    for choice in ("yes", "no"):
        cast = [
            Ballot(member=member, choice=choice, at=OPENED, sequence=at)
            for at, member in enumerate(charter.members, start=1)
        ]
        question = Question(kind="ratify-plan", opened=OPENED)
        found = tally(charter, question, founding(charter), cast)
        assert Tally.from_bytes(found.to_bytes()) == found


def _files() -> Parser:
    def call(data: bytes) -> None:
        _use(charterfile.parse(data, what="charter.toml"))

    return Parser(seeds=[(EXAMPLES / f"charter-{n}.toml").read_bytes() for n in SAMPLES], call=call)


def _messages() -> Parser:
    def call(data: bytes) -> bytes:
        charter = Charter.from_bytes(data)
        _use(charter)
        return charter.to_bytes()

    return Parser(
        seeds=[charterfile.load(EXAMPLES / f"charter-{n}.toml").to_bytes() for n in SAMPLES], call=call
    )


def _pledges() -> Parser:
    """What a member signs, held against a phase as the core does."""
    phases = charterfile.load(EXAMPLES / "charter-phases.toml").phases
    assert phases is not None

    def call(data: bytes) -> bytes:
        said = Pledge.from_bytes(data)
        pledging.refuse_unfit(phases["pilot"], said)
        assert str(amount(said.amount)) == said.amount
        return said.to_bytes()

    known = {
        "consortium": "7" * 64,
        "member": "po",
        "charter": "8" * 64,
        "phase": "pilot",
        "text": "From March.",
    }
    every = [
        Pledge(**known, resource="compute", amount="60 accelerator-hours", dataset=None, number=1),
        Pledge(**known, resource="data.fr", amount="1500 MB", dataset="letters", number=2),
        Pledge(**known, resource="people", amount="50 % of full-time", dataset=None, number=3),
    ]
    return Parser(seeds=[each.to_bytes() for each in every], call=call)


TARGETS: Sequence[Target] = (
    Target(name="charter-file", open=_files, mutate=_mutate),
    Target(name="charter", open=_messages, mutate=json_bytes),
    Target(name="pledge", open=_pledges, mutate=json_bytes),
)
