"""Charters: the file that people write, and the message that the ledger names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tapestry.cli import charterfile
from tapestry.governance import capture, prose
from tapestry.governance.charter import Charter
from tapestry.governance.electorate import founding
from tapestry.governance.tally import Ballot, Question, Tally, tally
from tests.fuzz.mutate import json_bytes
from tests.fuzz.target import Parser, Target
from tests.fuzz.targets.plans import _mutate

EXAMPLES = Path(__file__).parents[3] / "examples"
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

    return Parser(seeds=[(EXAMPLES / f"charter-{n}.toml").read_bytes() for n in (3, 5)], call=call)


def _messages() -> Parser:
    def call(data: bytes) -> bytes:
        charter = Charter.from_bytes(data)
        _use(charter)
        return charter.to_bytes()

    return Parser(
        seeds=[charterfile.load(EXAMPLES / f"charter-{n}.toml").to_bytes() for n in (3, 5)], call=call
    )


TARGETS: Sequence[Target] = (
    Target(name="charter-file", open=_files, mutate=_mutate),
    Target(name="charter", open=_messages, mutate=json_bytes),
)
