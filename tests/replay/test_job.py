"""Jobs are closed messages in a fixed order."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tapestry.errors import FormatError, NotFound, TapestryError
from tapestry.protocol.messages import Merged
from tapestry.protocol.plan import Merge
from tapestry.replay.job import Failure, MergeJob, MergeResult
from tapestry.rounds.weights import UNIT


def merged(member: str, node: str, weight: int) -> Merged:
    return Merged(node=node, member=member, contribution="0" * 64, delta="1" * 64, weight=weight)


def job(*contributions: Merged) -> MergeJob:
    return MergeJob(
        run="run",
        model="2" * 64,
        layout="3" * 64,
        state="4" * 64,
        merge=Merge(),
        contributions=contributions,
        durable=False,
    )


def test_round_trip() -> None:
    message = job(merged("a", "z", 0), merged("b", "c", UNIT - 1), merged("b", "d", 1))
    assert MergeJob.from_bytes(message.to_bytes()) == message
    result = MergeResult(state="0" * 64, base="1" * 64, outer=None, seconds=0.25, input_bytes=8)
    assert MergeResult.from_bytes(result.to_bytes()) == result


@pytest.mark.parametrize(
    ("contributions", "match"),
    [
        ((), "at least 1"),
        ((merged("b", "a", 1), merged("a", "b", UNIT - 1)), "ascending"),
        ((merged("a", "b", 1), merged("a", "b", UNIT - 1)), "ascending"),
        ((merged("a", "b", UNIT), merged("b", "b", UNIT)), "add up to"),
        ((merged("a", "b", UNIT - 1),), "add up to"),
    ],
)
def test_order_and_weights(contributions: tuple[Merged, ...], match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        job(*contributions)


def test_unknown_fields_are_refused() -> None:
    value = job(merged("a", "b", UNIT)).to_bytes().replace(b'"durable":false', b'"durable":false,"extra":1')
    with pytest.raises(FormatError, match="extra"):
        MergeJob.from_bytes(value)


def test_a_failure_becomes_the_error_it_was() -> None:
    error = Failure.from_bytes(Failure.of(NotFound("no blob", hint="fetch it")).to_bytes()).error()
    assert type(error) is NotFound and (error.message, error.hint) == ("no blob", "fetch it")
    assert type(Failure(code="from-the-future", message="m", hint=None).error()) is TapestryError
