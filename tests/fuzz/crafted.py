"""A thousand artifacts crafted to cost much: each must be refused by a typed error, for little."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tapestry.cli import planfile
from tapestry.codec.shards import ShardCodec
from tapestry.codec.sizes import MAGIC
from tapestry.errors import ArtifactError
from tapestry.identity.envelope import Envelope, sign
from tapestry.identity.notes import Note
from tapestry.identity.requests import check_proof
from tapestry.ledger.checkpoint import Checkpoint
from tapestry.ledger.entries import Entry
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Artifact
from tapestry.protocol.layout import Layout
from tapestry.protocol.plan import Plan
from tapestry.protocol.views import RoundRecord, RunView
from tapestry.replay.job import MergeJob
from tapestry.tensors import shards
from tapestry.tensors.flat import is_finite
from tapestry.training.spool import TrainResult
from tests.fuzz import made
from tests.fuzz.mutate import FLOAT_BITS
from tests.fuzz.targets.folders import SMALL, safetensors
from tests.fuzz.targets.messages import MERGE_JOB, RESULT

Parse = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Crafted:
    """An artifact, and who reads it."""

    name: str
    data: bytes
    parse: Parse


def shard_of(codec: str) -> Parse:
    """Reads a shard as a merge does: held against its largest size, decoded, looked at."""
    settings = made.CODECS[codec]

    def parse(data: bytes) -> None:
        if len(data) > settings.most_bytes(made.SHARD):
            raise ArtifactError("larger than the codec writes")
        if settings.plain:
            found = [shards.values(made.SHARD, data)]
        else:
            found = [each.decoded.values for each in ShardCodec(settings).decode(made.SHARD, data)]
        if not all(is_finite(values) for values in found):
            raise ArtifactError("not finite")

    return parse


def artifact(data: bytes) -> None:
    Artifact.of_layout(data, made.LAYOUT, kind="delta", codec=made.CODECS["topk"])


def layout(data: bytes) -> None:
    assert Layout.from_bytes(data).shards


def proof(data: bytes) -> None:
    asked = ("GET", "/v1/runs", canonical.sha256(b""))
    check_proof(data.decode("latin-1"), made.RING, made.CONSORTIUM_ID, *asked, made.AT)


def note(data: bytes) -> None:
    Checkpoint.parse(Note.from_bytes(data).text)


def everything() -> Iterator[Crafted]:
    """All of them."""
    yield from _deep()
    yield from _numbers()
    yield from _manifests()
    yield from _layouts()
    yield from _shards()
    yield from _values()
    yield from _signed()
    yield from _files()
    yield from _plans()


READERS: dict[str, tuple[Any, bytes]] = {
    "plan": (Plan.from_bytes, made.PLAN.to_bytes()),
    "artifact": (artifact, made.ARTIFACT.to_bytes()),
    "layout": (layout, made.SPLIT.to_bytes()),
    "entry": (Entry.from_bytes, made.RUN_EVENTS[0].to_bytes()),
    "record": (RoundRecord.from_bytes, made.RECORD.to_bytes()),
    "view": (RunView.from_bytes, made.VIEW.to_bytes()),
    "result": (TrainResult.from_bytes, RESULT.to_bytes()),
    "merge-job": (MergeJob.from_bytes, MERGE_JOB.to_bytes()),
    "envelope": (Envelope.from_bytes, made.SIGNED.to_bytes()),
}


def _deep() -> Iterator[Crafted]:
    """Nesting, oversize, keys twice, and text that is no canonical JSON."""
    for name, (parse, data) in READERS.items():
        for depth in (200, 1000, 5000, 100_000):
            for opening, closing in ((b"[", b"]"), (b'{"a":', b"}"), (b"[", b"")):
                deep = opening * depth + b"1" + closing * depth
                yield Crafted(f"{name} {depth} deep", data[:-1] + b',"zz":' + deep + b"}", parse)
        most = (
            64 << 20
            if name in ("record",)
            else 40 << 20
            if name in ("artifact", "view", "layout")
            else 10 << 20
        )
        yield Crafted(f"{name} oversize", bytes(most + 1), parse)
        for piece in (b"0,", b"[],", b'"",', b"{},"):
            for size in (1 << 17, 1 << 18) if most > 10 << 20 or name == "merge-job" else (1 << 18, 1 << 20):
                wide = b"[" + piece * (size // len(piece)) + b"0]"
                yield Crafted(f"{name} {size} bytes wide", data[:-1] + b',"zz":' + wide + b"}", parse)
        first = data.index(b":") + 1
        for junk in (
            b"NaN",
            b"Infinity",
            b"-0",
            b"1e999",
            b"9" * 4000,
            b"9" * 6000,
            b'"\\ud800"',
            b"01",
            b"+1",
        ):
            yield Crafted(f"{name} with {junk[:9]!r}", data[:first] + junk + data[data.index(b",") :], parse)
        end = data.index(b",") + 1
        yield Crafted(f"{name} key twice", data[:end] + data[1:end] + data[end:], parse)
        yield Crafted(f"{name} surrogate key", data[:-1] + b',"\\ud800":1}', parse)
        for space in (b" ", b"\n", b"\x00", b"\xff", b"\xef\xbb\xbf"):
            yield Crafted(f"{name} with space", space + data, parse)
            yield Crafted(f"{name} with more", data + space, parse)


def _set(data: bytes, path: tuple[Any, ...], value: object) -> bytes:
    whole = json.loads(data)
    at = whole
    for each in path[:-1]:
        at = at[each]
    at[path[-1]] = value
    return json.dumps(whole, separators=(",", ":"), sort_keys=True).encode()


HUGE = (-1, 1 << 41, 1 << 53, 1 << 63, 1 << 64, 10**30, 10**400, 1e300, -1e300, "1", None, [], True, 0.5)
FIELDS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    *(("plan", ("rounds", "total")), ("plan", ("inner", "steps")), ("plan", ("inner", "accumulation"))),
    *(
        ("plan", ("parameters",)),
        ("plan", ("codec", "matrices", "keep")),
        ("plan", ("streaming", "fragments")),
    ),
    *(
        ("artifact", ("shards", 0, "bytes")),
        ("layout", ("shard_bytes",)),
        ("layout", ("tensors", 0, "shape", 0)),
    ),
    *(("entry", ("sequence",)), ("record", ("round",)), ("record", ("merged", 0, "weight"))),
    *(
        ("result", ("tokens",)),
        ("result", ("steps",)),
        ("result", ("merges",)),
        ("merge-job", ("contributions", 0, "weight")),
    ),
)


def _numbers() -> Iterator[Crafted]:
    """Every count at its extremes."""
    for name, path in FIELDS:
        parse, data = READERS[name]
        for value in HUGE:
            if path[-1] in ("sequence", "tokens") and value == 1 << 41:
                continue  # these may be as large
            yield Crafted(f"{name} {path[-1]} = {str(value)[:20]}", _set(data, path, value), parse)


def _manifests() -> Iterator[Crafted]:
    """Shards that are too many, too large, or elsewhere."""
    data = made.ARTIFACT.to_bytes()
    blob = json.loads(data)["shards"][0]
    for count in (0, 2, 3, 100, 1000, 100_000):
        yield Crafted(f"{count} shards", _set(data, ("shards",), [blob] * count), artifact)
    for size in (1 << 20, (1 << 26) + 1, 1 << 40, 1 << 50):
        yield Crafted(f"a shard of {size}", _set(data, ("shards", 0, "bytes"), size), artifact)
    for text in ("0" * 63, "G" * 64, "../" * 21 + "x", "0" * 64 + "\n", "A" * 64, "", "0" * 100_000):
        yield Crafted("a hash that is none", _set(data, ("shards", 0, "sha256"), text), artifact)
    for kind in ("base", "outer", "pickle", "x" * 10_000):
        yield Crafted(f"kind {kind[:9]}", _set(data, ("kind",), kind), artifact)


def _layouts() -> Iterator[Crafted]:
    """A few bytes that stand for very many shards."""
    for exponent in range(28, 41):
        for rest in ((), (1,), (16,), (1024,)):
            for size in (4096, 65536):
                if (1 << exponent) * (rest[0] if rest else 1) * 4 <= (1 << 17) * size:
                    continue
                tensors = [{"name": "a", "shape": [1 << exponent, *rest]}]
                whole = {"format": "tapestry.layout", "version": 1, "shard_bytes": size, "tensors": tensors}
                yield Crafted(f"2^{exponent} rows", canonical.encode({**whole, "fragments": []}), layout)
    data = made.SPLIT.to_bytes()
    for shape in ([1 << 40] * 8, [2] * 9, [0], [1 << 41], [4, 1 << 30], [-1], [1.5], ["4"]):
        yield Crafted(f"shape {shape}", _set(data, ("tensors", 0, "shape"), shape), layout)
    for fragments in ([0, 4095, 1], [0, 1], [0, 2, 2], [1, 1, 1], [-1, 0, 0], [0, 1 << 30, 1]):
        yield Crafted(f"fragments {fragments}", _set(data, ("fragments",), fragments), layout)
    for names in ("a" * 256, "b", "a/b", "../a", ".a", "", "ä", "a\x00"):
        yield Crafted(f"a tensor {names[:9]}", _set(data, ("tensors", 0, "name"), names), layout)


def _shards() -> Iterator[Crafted]:
    """Encoded shards: counts, lengths and forms."""
    for codec in made.CODECS:
        parse, data = shard_of(codec), made.encoded(codec, 1)
        for at in range(0, len(data), max(1, len(data) // 6)):
            yield Crafted(f"{codec} cut at {at}", data[:at], parse)
        for more in (b"\x00", bytes(100), data, bytes(32 << 20)):
            yield Crafted(f"{codec} with {len(more)} more", data + more, parse)
        yield Crafted(f"{codec} without its head", b"X" + data[1:], parse)
        yield Crafted(f"{codec} of ones", data[: len(MAGIC)] + b"\xff" * (len(data) - len(MAGIC)), parse)
    header = made.SHARD.header
    for length in (0, 1, len(header), 1 << 31, 1 << 40, (1 << 63) - 1, (1 << 64) - 1):
        data = struct.pack("<Q", length) + made.encoded("fp32", 1)[8:]
        if data != made.encoded("fp32", 1):
            yield Crafted(f"a header of {length} bytes", data, shard_of("fp32"))


def _values() -> Iterator[Crafted]:
    """What is not finite, or not canonical, at places all over a shard."""
    strange = [bits for bits in FLOAT_BITS if bits & 0x7F800000 == 0x7F800000]
    start = len(made.SHARD.header)
    data = made.encoded("fp32", 1)
    for number, at in enumerate(range(start, len(data) - 4, (len(data) - start) // 60 // 4 * 4)):
        bits = strange[number % len(strange)]
        yield Crafted(
            "a value that is not finite",
            data[:at] + struct.pack("<I", bits) + data[at + 4 :],
            shard_of("fp32"),
        )
    data = made.encoded("bf16", 1)
    for number, at in enumerate(range(8, len(data) - 2, (len(data) - 8) // 40 // 2 * 2)):
        half = (0x7F80, 0xFF80, 0x7FC0, 0xFFFF)[number % 4]
        yield Crafted(
            "a half that is not finite",
            data[:at] + struct.pack("<H", half) + data[at + 2 :],
            shard_of("bf16"),
        )
    data = made.encoded("int8", 1)
    for run in range(8, 8 + 36):  # exponents of the first piece
        for exponent in (249, 255):
            yield Crafted(
                "an exponent too large", data[:run] + bytes([exponent]) + data[run + 1 :], shard_of("int8")
            )
    data = made.encoded("fp4", 1)
    for run in range(8, 8 + 36):
        for exponent in (1, 7, 255):
            yield Crafted(
                "an exponent that is none", data[:run] + bytes([exponent]) + data[run + 1 :], shard_of("fp4")
            )
    data = made.encoded("topk", 1)
    for count in (0, 1, 2, 3, 5, 16, 255, 256, 65535):
        yield Crafted(f"{count} levels", data[:8] + struct.pack("<H", count) + data[10:], shard_of("topk"))
    for level in range(4):
        for bits in (*strange, 0, 0x80000000):
            at = 10 + 4 * level
            yield Crafted(
                "a level that is none", data[:at] + struct.pack("<I", bits) + data[at + 4 :], shard_of("topk")
            )
    for at in range(26, 26 + 16):  # heads of the first block: more values than it may send, or beyond its end
        yield Crafted("a head of ones", data[:at] + b"\xff" * 16 + data[at + 16 :], shard_of("topk"))


def _signed() -> Iterator[Crafted]:
    """Envelopes, proofs and notes."""
    data = made.SIGNED.to_bytes()
    one = json.loads(data)["signatures"][0]
    for count in (0, 2, 65, 5000):
        yield Crafted(f"{count} signatures", _set(data, ("signatures",), [one] * count), Envelope.from_bytes)
    for text in ("A", "AB==", "QQ=", "é", "A" * 1_600_000, "QQ==\n", " QQ==", "Q-Q_"):
        yield Crafted("a payload that is no base64", _set(data, ("payload",), text), Envelope.from_bytes)
        yield Crafted(
            "a signature that is none", _set(data, ("signatures", 0, "sig"), text), Envelope.from_bytes
        )
    for text in ("x", "application/vnd.x", "application/vnd." + "a" * 100 + "+json", "text/plain"):
        yield Crafted("a type that is none", _set(data, ("payloadType",), text), Envelope.from_bytes)
    inside = sign(made.CONTRIBUTION, made.NODE).to_bytes()
    for size in (0, 10, 4000, 4097, 1 << 20):
        yield Crafted("a header", b"Tapestry " + b"A" * size, proof)
    yield Crafted(
        "a proof of another kind", b"Tapestry " + base64.urlsafe_b64encode(inside).rstrip(b"="), proof
    )
    good = made.checkpoint(made.ENTRIES).to_bytes()
    line = good.split(b"\n\n")[1]
    for count in (2, 1025, 5000):
        yield Crafted(f"{count} lines", good + line * count, note)
    for size in (b"-1", b"1e3", b"9" * 17, b"9" * 200_000, "²".encode(), b"01", b""):
        lines = good.split(b"\n")
        lines[1] = size
        yield Crafted("a tree of no size", b"\n".join(lines), note)
    for text in (bytes(300_000), b"\n\n", b"\n\n\n", good[:-1], good.replace(b"\n", b"\r\n"), b"\xff" + good):
        yield Crafted("no note", text, note)


def _files() -> Iterator[Crafted]:
    """Safetensors of a model's directory."""
    from tapestry.training.adopt import _Weights

    def parse(data: bytes) -> None:
        with TemporaryDirectory(prefix="tapestry-") as name:
            folder = Path(name)
            (folder / "model.safetensors").write_bytes(data)
            with _Weights.open(folder) as weights:
                weights.check(SMALL, set())
                for _ in weights.shards(SMALL):
                    pass

    a, b = struct.pack("<24f", *range(24)), struct.pack("<8f", *range(8))
    whole = {"a.weight": ("F32", [6, 4], a), "b": ("F32", [8], b)}
    good = safetensors(whole)
    head: dict[str, Any] = json.loads(good[8 : 8 + struct.unpack_from("<Q", good)[0]])

    def with_head(value: object) -> bytes:
        text = json.dumps(value).encode()
        return struct.pack("<Q", len(text)) + text + a + b

    for length in (0, 7, 1 << 20, 100_000_001, 1 << 40, (1 << 63) - 1, (1 << 64) - 1):
        yield Crafted(f"a header of {length} bytes", struct.pack("<Q", length) + good[8:], parse)
    for offsets in ([0, 97], [96, 0], [1, 97], [0, 1 << 60], [-1, 96], [0, 64], [32, 128], [0.5, 96], [0]):
        yield Crafted(
            f"offsets {offsets}",
            with_head({**head, "a.weight": {**head["a.weight"], "data_offsets": offsets}}),
            parse,
        )
    for shape in ([1 << 40, 1 << 40], [24], [4, 6], [6, 4, 1], [0], [-6, -4], [6.0, 4], [[6], 4], [6] * 1000):
        yield Crafted(
            f"a shape {str(shape)[:30]}",
            with_head({**head, "a.weight": {**head["a.weight"], "shape": shape}}),
            parse,
        )
    for kind in ("F64", "I32", "F8_E4M3", "BOOL", "U8", "X", "", 1, None):
        yield Crafted(
            f"dtype {kind}", with_head({**head, "a.weight": {**head["a.weight"], "dtype": kind}}), parse
        )
    for value in (
        [],
        {},
        {"a.weight": head["a.weight"]},
        {**head, "c": head["b"]},
        {f"t{n}": head["b"] for n in range(3000)},
    ):
        yield Crafted("other tensors", with_head(value), parse)
    for bits in (0x7F800000, 0x7FC00000, 0xFF800000):
        yield Crafted("not finite", good[:-4] + struct.pack("<I", bits), parse)


def _plans() -> Iterator[Crafted]:
    """Plan files."""
    from tests.fuzz.targets.plans import LINES, NUMBERS, SHORT

    parse: Parse = lambda data: planfile.parse(data, what="plan.toml")  # noqa: E731
    for value in NUMBERS:
        if value not in ("1", "0b1", "1_0"):
            for key in (b"total = 8", b"version = 1"):
                yield Crafted(
                    f"{value[:20]}", SHORT.replace(key, key.split(b"=")[0] + b"= " + value.encode()), parse
                )
    for line in LINES:
        yield Crafted(line[:20], line.encode() + b"\n" + SHORT, parse)
    for data in (
        bytes(1 << 18),
        b"a." * (1 << 17),
        b"[" * (1 << 18),
        b'"' * (1 << 18),
        b"x" * (1 << 18),
        bytes(2 << 20),
    ):
        yield Crafted("a large one", data, parse)
