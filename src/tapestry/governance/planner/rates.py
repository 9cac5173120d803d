"""Constants of the formulas: as measured on this project's machines, until rounds of one's own are
recorded."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final

from tapestry.governance.planner.spread import Corner, Spread

MEASURED: Final = "benchmarks/results: merge, codec, overlap, transfer; two cores of an AMD EPYC"
COUNTED: Final = "counted in rounds of two and of four nodes, with reveal and witnesses"
ASSUMED: Final = "assumed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Constants:
    """In one case; see `Rates` for what they are."""

    link_efficiency: float
    round_trips: float
    request_s: float
    fixed_s: float
    encode_bytes_s: float
    disk_bytes_s: float
    merge_bytes_s: float
    decode_bytes_s: float
    sent_messages: float
    received_messages: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """Each in the best, the middle and the worst case.

    Args:
        link_efficiency: part of a link's rate that carries what is sent.
        round_trips: in a row, of one exchange: words, upload, news, record, manifests, shards, attestation.
        request_s: one request at a node beside the link: signed, sent, verified.
        fixed_s: of a round that nothing else explains: polls, files handed from process to process, the core.
        encode_bytes_s: fp32 values that become a delta.
        disk_bytes_s: inner state that is written.
        merge_bytes_s: read, verified, hashed and written by a merge.
        decode_bytes_s: fp32 values that encoded deltas become.
        sent_messages: all that is sent beside shards and manifests, as part of what `exchange` counts.
        received_messages: the same of what is received.
        paces: by member, tokens a second times operations a token, where rounds of its node were recorded.
        rounds: that were recorded.
        sources: where each constant is from, by its name.
    """

    link_efficiency: Spread
    round_trips: Spread
    request_s: Spread
    fixed_s: Spread
    encode_bytes_s: Spread
    disk_bytes_s: Spread
    merge_bytes_s: Spread
    decode_bytes_s: Spread
    sent_messages: Spread
    received_messages: Spread
    sources: tuple[tuple[str, str], ...]
    paces: tuple[tuple[str, Spread], ...] = ()
    rounds: int = 0

    def at(self, corner: Corner) -> Constants:
        return Constants(**{name: getattr(self, name).at(corner) for name in NAMES})

    def pace_of(self, member: str) -> Spread | None:
        """Operations a second that were recorded of a member's node."""
        return dict(self.paces).get(member)

    def source(self, name: str) -> str:
        return dict(self.sources)[name]

    def with_measured(self, found: dict[str, Spread], said: str) -> Rates:
        """With some of the constants as they were recorded."""
        sources = {**dict(self.sources), **dict.fromkeys(found, said)}
        return replace(self, **found, sources=tuple(sources.items()))  # type: ignore[arg-type]


NAMES: Final = tuple(field.name for field in fields(Constants))
DEFAULT: Final = Rates(
    link_efficiency=Spread(0.97, 0.92, 0.75),
    round_trips=Spread(8.0, 12.0, 18.0),
    request_s=Spread(0.002, 0.005, 0.01),
    fixed_s=Spread(0.2, 0.4, 1.5),
    encode_bytes_s=Spread(1.6e9, 1.0e9, 0.4e9),
    disk_bytes_s=Spread(2.0e9, 1.0e9, 0.2e9),
    merge_bytes_s=Spread(1.9e9, 1.4e9, 0.7e9),
    decode_bytes_s=Spread(6.0e9, 4.6e9, 2.0e9),
    sent_messages=Spread(0.85, 1.0, 1.2),
    received_messages=Spread(0.85, 1.0, 1.2),
    sources=(
        ("link_efficiency", ASSUMED),
        ("round_trips", MEASURED),
        ("request_s", ASSUMED),
        ("fixed_s", MEASURED),
        ("encode_bytes_s", MEASURED),
        ("disk_bytes_s", ASSUMED),
        ("merge_bytes_s", MEASURED),
        ("decode_bytes_s", MEASURED),
        ("sent_messages", COUNTED),
        ("received_messages", COUNTED),
    ),
)
