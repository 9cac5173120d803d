"""Constants that made some rounds are found again from what nodes would have written down of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tapestry.errors import InputError
from tapestry.governance.planner.calibrate import Recorded, calibrate, checked
from tapestry.governance.planner.rates import DEFAULT, Rates
from tapestry.governance.planner.timing import time_round, transfer_s
from tapestry.protocol.encoding import Codec, TopK
from tests.governance.planner.made import exact, member, members, scenario

TRUE = replace(
    exact(
        link_efficiency=0.8,
        round_trips=9.0,
        fixed_s=0.35,
        merge_bytes_s=DEFAULT.merge_bytes_s.middle,
        decode_bytes_s=DEFAULT.decode_bytes_s.middle,
        encode_bytes_s=DEFAULT.encode_bytes_s.middle,
        disk_bytes_s=DEFAULT.disk_bytes_s.middle,
        request_s=DEFAULT.request_s.middle,
        sent_messages=1.3,
        received_messages=0.9,
    )
)
SPARSE = {"codec": Codec(matrices=TopK(), embeddings=TopK(), error_feedback=0.95)}


def recorded(mbit: float, trip_ms: float, *, rounds: int = 6, **changed: Any) -> Recorded:
    """What two nodes of 2,000 tokens a second would write, were the formulas true."""
    who = members(
        *(
            member(name, tokens_per_s=2000.0, up_mbit=mbit, down_mbit=mbit, round_trip_ms=trip_ms)
            for name in "ab"
        )
    )
    given = scenario(who=who, rates=TRUE, **changed)
    it = given.round("middle", 10)
    whole, one = time_round(it).period_s, it.parties[0]
    moved = given.moved(who.members[0], "middle", 10)
    own = given.load.delta + given.load.manifest
    line = {
        "tokens": 1000,
        "steps": 10,
        "whole_s": whole,
        "trained_s": one.train_s,
        "evaluated_s": 0.0,
        "encoded_s": it.encode_s,
        "uploaded_s": transfer_s(own, it.load.shards + 1, one.up, one, it.request_s) + one.round_trip_s,
        "downloaded_s": transfer_s(own, it.load.shards, one.down, one, it.request_s) + one.round_trip_s,
        "replayed_s": it.merge_s,
        "uploaded_bytes": int(own),
        "downloaded_bytes": int(given.load.delta),
        "sent_bytes": round(moved.sent),
        "received_bytes": round(moved.received),
    }
    lines = [{**line, "round": number} for number in range(1, rounds + 1)]
    return Recorded(plan=given.plan, layout=given.layout, members=who, lines={"a": lines, "b": lines})


def compared(rates: Rates, later: Recorded) -> tuple[float, float, float]:
    """Foretold against recorded: time, sent, received."""
    given = later.scenario(rates)
    line = later.all_lines[0]
    moved = given.moved(later.members.members[0], "middle", 10)
    period = time_round(given.round("middle", 10)).period_s
    found = (period, moved.sent, moved.received)
    truth = (line["whole_s"], line["sent_bytes"], line["received_bytes"])
    return found[0] / truth[0], found[1] / truth[1], found[2] / truth[2]


def test_what_made_the_rounds_is_found() -> None:
    found = calibrate([recorded(2.0, 5.0), recorded(1.0, 80.0)])
    assert found.rounds == 12 and found.source("fixed_s") == "recorded, 12 rounds"
    assert found.link_efficiency.middle == pytest.approx(0.8, rel=0.05)
    assert found.fixed_s.middle == pytest.approx(0.35, rel=0.15)
    assert found.round_trips.middle == pytest.approx(9.0, rel=0.15)
    assert found.sent_messages.middle == pytest.approx(1.3, rel=0.01)
    assert found.received_messages.middle == pytest.approx(0.9, rel=0.01)
    assert found.source("disk_bytes_s") == DEFAULT.source("disk_bytes_s"), "too short to tell"
    pace = found.pace_of("a")
    assert pace is not None
    given = recorded(2.0, 5.0).scenario(found)
    assert given.pace(given.members.members[0]).middle == pytest.approx(2000.0)


@pytest.mark.parametrize("mbit", [1.0, 10.0, 100.0, 1000.0])
@pytest.mark.parametrize("changed", [{}, SPARSE], ids=["dense", "sparse"])
def test_other_rounds_are_foretold(mbit: float, changed: dict[str, Any]) -> None:
    later = recorded(mbit, 40.0, **changed)
    rates = calibrate([recorded(2.0, 40.0), recorded(2.0, 40.0, **SPARSE)])
    time, sent, received = compared(rates, later)
    assert time == pytest.approx(1.0, abs=0.06)
    assert (sent, received) == (pytest.approx(1.0, abs=0.01), pytest.approx(1.0, abs=0.01))


def test_without_calibration_they_are_not() -> None:
    time, sent, _ = compared(DEFAULT, recorded(2.0, 40.0, **SPARSE))
    assert abs(time - 1) > 0.01 and abs(sent - 1) > 0.1


def test_lines_of_older_nodes_say_nothing_of_messages() -> None:
    old = recorded(2.0, 5.0)
    drop = ("sent_bytes", "received_bytes")
    lines = {
        name: [{k: v for k, v in line.items() if k not in drop} for line in own]
        for name, own in old.lines.items()
    }
    found = calibrate([replace(old, lines=lines)])
    assert found.sent_messages == DEFAULT.sent_messages
    assert found.source("sent_messages") == DEFAULT.source("sent_messages")


def test_what_is_no_record_is_refused() -> None:
    with pytest.raises(InputError, match="no recorded round"):
        calibrate([])
    good = dict(recorded(2.0, 5.0).all_lines[0])
    assert checked([good], "f") == [good]
    with pytest.raises(InputError, match="lacks one of"):
        checked([{k: v for k, v in good.items() if k != "whole_s"}], "f")
    with pytest.raises(InputError, match="longer than it lasted"):
        checked([{**good, "trained_s": good["whole_s"] + 1}], "f")


def test_what_takes_long_for_its_size_is_no_rate() -> None:
    """A small model whose encoding took a second says nothing of a large one's; it is in what is left."""
    given = recorded(2.0, 5.0)
    lines = {
        name: [{**line, "encoded_s": 1.0, "whole_s": line["whole_s"] + 1.0} for line in own]
        for name, own in given.lines.items()
    }
    found = calibrate([replace(given, lines=lines)])
    assert found.encode_bytes_s == DEFAULT.encode_bytes_s
    assert found.fixed_s.middle == pytest.approx(calibrate([given]).fixed_s.middle + 1.0)
