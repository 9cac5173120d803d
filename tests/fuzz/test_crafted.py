"""A thousand crafted artifacts are refused by typed errors and cost little; without the checks they do."""

from __future__ import annotations

import tracemalloc

import pytest

from tapestry.errors import FormatError, TooLarge
from tapestry.identity.envelope import Envelope
from tapestry.protocol import artifact, canonical, layout
from tapestry.protocol.messages import Merged
from tapestry.protocol.views import RoundRecord
from tests.fuzz import made
from tests.fuzz.cost import Measured, measure
from tests.fuzz.crafted import Crafted, everything
from tests.fuzz.target import MIB

MOST_BYTES = 16 * MIB
"""Beside the input itself. `python -m tests.fuzz.cost` prints how much each takes."""
MOST_S = 1.0
"""Far above what they take, since this is no measurement."""


def test_each_is_refused_by_a_typed_error_in_time() -> None:
    found = measure(everything(), memory=False)
    assert len(found) >= 1000
    assert [each for each in found if not each.typed] == []
    assert [each for each in found if each.seconds > MOST_S and each.input_bytes < MIB] == []


def test_each_is_refused_before_memory_is_taken() -> None:
    some = (one for number, one in enumerate(everything()) if number % 8 == 0)
    found = measure(some, memory=True)
    assert [each for each in found if each.peak_bytes > MOST_BYTES + each.input_bytes] == []


def one_costs(one: Crafted) -> Measured:
    (found,) = measure([one], memory=True)
    return found


def record(merged: bytes, more: bytes = b"") -> bytes:
    return b'{"format":"tapestry.round","merged":[%b],"version":1%b}' % (merged, more)


def test_of_many_faults_one_is_looked_at() -> None:
    """Each fault that is told costs far more than the value at fault."""
    data = record(b",".join([b"{}"] * 15_000))

    class Patient(RoundRecord):
        merged: tuple[Merged, ...]

    refused = one_costs(Crafted("round", data, RoundRecord.from_bytes))
    assert (refused.typed, refused.peak_bytes < MOST_BYTES) == (True, True)
    taken = one_costs(Crafted("round", data, Patient.from_bytes))
    assert (taken.typed, taken.peak_bytes > 2 * MOST_BYTES) == (True, True)


def test_a_small_document_has_few_values_whatever_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    data = record(b"", b',"zz":[%b]' % b",".join([b"[]"] * 60_000))
    one = Crafted("round", data, RoundRecord.from_bytes)
    refused = one_costs(one)
    assert (refused.typed, refused.peak_bytes < MIB // 4) == (True, True)
    monkeypatch.setattr(canonical, "LEAST_BYTES_A_VALUE", 1)
    assert one_costs(one).peak_bytes > 4 * MIB


def test_without_the_cap_on_shards_a_few_bytes_take_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [{"name": "a", "shape": [90_000_000]}]
    whole = {
        "format": "tapestry.layout",
        "version": 1,
        "shard_bytes": 4096,
        "tensors": tensors,
        "fragments": [],
    }
    data = canonical.encode(whole)

    def parse(given: bytes) -> None:
        assert layout.Layout.from_bytes(given).shards

    refused = one_costs(Crafted("layout", data, parse))
    assert (refused.typed, refused.peak_bytes < MIB) == (True, True)
    monkeypatch.setattr(layout, "MAX_SHARDS", 1 << 60)
    taken = one_costs(Crafted("layout", data, parse))
    assert (taken.typed, taken.peak_bytes > MOST_BYTES) == (False, True)


def test_without_the_cap_on_values_a_document_takes_many_times_its_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wide = Crafted(
        "wide", b"[" + b"[]," * 330_000 + b"0]", lambda data: canonical.decode(data, max_bytes=4 * MIB)
    )
    refused = one_costs(wide)
    assert (refused.typed, refused.peak_bytes < MIB) == (True, True)
    monkeypatch.setattr(canonical, "MIN_VALUES", 1 << 60)
    taken = one_costs(wide)
    assert (taken.typed, taken.peak_bytes > MOST_BYTES) == (False, True)


def test_without_its_bound_a_long_manifest_is_parsed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    blob = made.ARTIFACT.model_dump(mode="json")
    data = canonical.encode({**blob, "shards": blob["shards"] * 20_000})

    def parse(given: bytes) -> None:
        artifact.Artifact.of_layout(given, made.LAYOUT, kind="delta", codec=made.CODECS["topk"])

    refused = one_costs(Crafted("manifest", data, parse))
    assert (refused.typed, refused.peak_bytes < MIB) == (True, True)
    monkeypatch.setattr(artifact, "_HEAD_BYTES", 1 << 60)
    taken = one_costs(Crafted("manifest", data, parse))
    assert taken.peak_bytes > MOST_BYTES


def test_without_its_cap_a_large_message_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b'"' + b"x" * (66 << 20) + b'"'
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            RoundRecord.from_bytes(data)
        assert tracemalloc.get_traced_memory()[1] < MIB
        monkeypatch.setattr(RoundRecord, "MAX_BYTES", 1 << 60)
        with pytest.raises(FormatError):
            RoundRecord.from_bytes(data)
        assert tracemalloc.get_traced_memory()[1] > MOST_BYTES
    finally:
        tracemalloc.stop()


def test_signatures_are_counted_before_they_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    one = made.SIGNED.model_dump(mode="json")
    data = canonical.encode({**one, "signatures": one["signatures"] * 5000})
    many = Crafted("signatures", data, Envelope.from_bytes)
    assert one_costs(many).peak_bytes < MIB
    monkeypatch.setattr("tapestry.identity.envelope.MAX_SIGNATURES", 1 << 30)
    assert one_costs(many).peak_bytes > MIB
