"""The merge a second time, from docs/formats/ alone: numpy, and nothing of `src/`.

Works on a dictionary of blobs (address → bytes). It reads every shard's own header, puts whole
tensors together, does the arithmetic on whole tensors, and cuts the result anew.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from typing import Any

import numpy as np

from tests.codec import reference as encoded

Blobs = dict[str, bytes]
Tensors = dict[str, np.ndarray]
F32 = np.dtype("<f4")


def address(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def canonical(value: Any) -> bytes:
    """RFC 8785 for what occurs here: ASCII strings, whole numbers, null."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def read_message(blobs: Blobs, sha: str, kind: str) -> Any:
    data = blobs[sha]
    assert address(data) == sha, "altered blob"
    message = json.loads(data)
    assert (message["format"], message["version"]) == (kind, 1)
    return message


def parse_shard(data: bytes) -> list[tuple[str, tuple[int, ...], np.ndarray]]:
    """Name, shape and values of each piece, by the shard's own header."""
    (length,) = struct.unpack_from("<Q", data, 0)
    header = json.loads(data[8 : 8 + length])
    body = data[8 + length :]
    pieces = []
    for name, entry in header.items():
        assert entry["dtype"] == "F32"
        start, stop = entry["data_offsets"]
        values = np.frombuffer(body[start:stop], dtype=F32)
        pieces.append((name, tuple(entry["shape"]), values))
    return pieces


def read_tensors(blobs: Blobs, sha: str, kind: str, layout: Any) -> Tensors:
    """Whole tensors of an artifact."""
    artifact = read_message(blobs, sha, "tapestry.artifact")
    assert artifact["kind"] == kind
    rows: dict[str, list[np.ndarray]] = {}
    for shard in artifact["shards"]:
        data = blobs[shard["sha256"]]
        assert address(data) == shard["sha256"] and len(data) == shard["bytes"]
        for name, _, values in parse_shard(data):
            rows.setdefault(name, []).append(values)
    shapes = {tensor["name"]: tuple(tensor["shape"]) for tensor in layout["tensors"]}
    assert set(rows) == set(shapes)
    return {name: np.concatenate(rows[name]).reshape(shape) for name, shape in shapes.items()}


def read_encoded(blobs: Blobs, sha: str, layout: Any, codec: Any) -> Tensors:
    """Whole tensors of a delta as a codec writes it."""
    artifact = read_message(blobs, sha, "tapestry.artifact")
    assert artifact["kind"] == "delta"
    empty = {tensor["name"]: np.zeros(tensor["shape"], F32) for tensor in layout["tensors"]}
    rows: dict[str, list[np.ndarray]] = {}
    for shard, like in zip(artifact["shards"], cut(layout, empty), strict=True):
        data = blobs[shard["sha256"]]
        assert address(data) == shard["sha256"] and len(data) == shard["bytes"]
        assert data[:8] == b"TPDELTA\x01"
        at = 8
        for name, shape, _ in parse_shard(like):
            embedding = not set(codec["embedding_names"]).isdisjoint(name.split("."))
            kind = "norms" if len(shape) < 2 else "embeddings" if embedding else "matrices"
            values, length = encoded.decode(codec[kind], data[at:], shape)
            rows.setdefault(name, []).append(values)
            at += length
        assert at == len(data)
    return {name: np.concatenate(rows[name]).reshape(like.shape) for name, like in empty.items()}


def write_shard(pieces: list[tuple[str, tuple[int, ...], np.ndarray]]) -> bytes:
    entries, body = [], b""
    for name, shape, values in pieces:
        raw = values.astype(F32).tobytes()
        dimensions = ",".join(str(dimension) for dimension in shape)
        entries.append(
            f'"{name}":{{"dtype":"F32","shape":[{dimensions}],'
            f'"data_offsets":[{len(body)},{len(body) + len(raw)}]}}'
        )
        body += raw
    text = "{" + ",".join(entries) + "}"
    while len(text) % 8:
        text += " "
    return len(text).to_bytes(8, "little") + text.encode("ascii") + body


def cut_rows(layout: Any) -> list[list[tuple[str, int, int]]]:
    """Which rows of which tensors each shard holds: 64 rows after 64 (or one after one, where 64 are too many
    for any shard) into a shard until the next do not fit."""
    limit = layout["shard_bytes"]
    shards: list[list[tuple[str, int, int]]] = [[]]
    used = 0
    for tensor in layout["tensors"]:
        name, shape = tensor["name"], tensor["shape"]
        rows = shape[0] if shape else 1
        row_bytes = 4 * int(np.prod(shape[1:], dtype=np.int64))
        together = 64 if 64 * row_bytes <= limit else 1
        for row in range(0, rows, together):
            stop = min(row + together, rows)
            if used + (stop - row) * row_bytes > limit:
                shards.append([])
                used = 0
            here = shards[-1]
            if here and here[-1][0] == name:
                here[-1] = (name, here[-1][1], stop)
            else:
                here.append((name, row, stop))
            used += (stop - row) * row_bytes
    return shards


def cut(layout: Any, tensors: Tensors) -> list[bytes]:
    """Shards of a tensor state."""
    result = []
    for plan in cut_rows(layout):
        pieces = []
        for name, start, stop in plan:
            whole = tensors[name]
            part = whole[start:stop] if whole.shape else whole
            pieces.append((name, part.shape, part.reshape(-1)))
        result.append(write_shard(pieces))
    return result


def merge_values(
    base: np.ndarray,
    momentum: np.ndarray,
    deltas: list[np.ndarray],
    weights: list[int],
    *,
    outer: str,
    rate: float,
    mu: float,
    factors: list[np.float32] | None = None,
    average: str = "all",
    refresh: int = 1,
    number: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """New base and new momentum of one tensor; every numpy operation rounds once, in binary32. It is the
    merge with this number of the tensor, the first being 1."""
    rate32, mu32 = np.float32(rate), np.float32(mu)
    total = np.zeros_like(base)
    shares = [np.float32(units) / np.float32(2**24) for units in weights]
    sent, sizes, squares = np.zeros_like(base), np.zeros_like(base), np.zeros_like(base)
    for delta, share, factor in zip(deltas, shares, factors or shares, strict=True):
        term = factor * delta
        total = total + term
        used = delta != 0
        if average == "users":
            rows = used.reshape(used.shape[0], -1).any(1)
            used = np.broadcast_to(rows.reshape(-1, *[1] * (used.ndim - 1)), used.shape)
        sent = sent + share * used.astype(np.float32)
        if share > 0:
            sizes, squares = sizes + np.abs(term), squares + term * term / share
    if average in ("senders", "users"):
        total = np.where(sent > 0, total / np.where(sent > 0, sent, np.float32(1)), total)
    if average == "movers":
        both = sizes * sizes
        total = np.where(both > 0, total * (squares / np.where(both > 0, both, np.float32(1))), total)
    if outer == "fedavg":
        return base - total, momentum
    if outer == "sgd":
        return base - rate32 * total, momentum
    if outer == "delayed":
        part = total if refresh == 1 else total * (np.float32(1) / np.float32(refresh))
        gathered = momentum + part
        if number % refresh:
            return base - rate32 * part, gathered
        kept = gathered * mu32
        return base - rate32 * (kept + part), kept
    momentum = mu32 * momentum + total
    step = total + mu32 * momentum
    return base - rate32 * step, momentum


def square(values: np.ndarray) -> float:
    """Squared norm of one piece."""
    x = values.reshape(-1).astype(np.float64) ** 2
    x = np.concatenate([x, np.zeros((1 << max(0, len(x) - 1).bit_length()) - len(x))])
    while len(x) > 1:
        x = x[: len(x) // 2] + x[len(x) // 2 :]
    return float(x[0])


def factors_of(
    settings: Any,
    units: list[int],
    deltas: list[Tensors],
    rows: list[list[tuple[str, int, int]]],
    embeddings: set[str],
) -> dict[str, list[np.float32]]:
    """By tensor, the factor of each contribution."""
    weights = [each / 2**24 for each in units]

    def squares(tensors: Tensors) -> dict[str, float]:
        found: dict[str, float] = {}
        for shard in rows:
            for name, start, stop in shard:
                part = tensors[name][start:stop] if tensors[name].shape else tensors[name]
                found[name] = found.get(name, 0.0) + square(part)
        return found

    of_tensor = [squares(delta) for delta in deltas]
    clip = [1.0] * len(units)
    if settings["clip"] == "median":
        norms = []
        for each in of_tensor:
            total = 0.0
            for value in each.values():
                total += value
            norms.append(math.sqrt(total))
        low, high = sorted(norms)[(len(norms) - 1) // 2], sorted(norms)[len(norms) // 2]
        median = low if len(norms) % 2 else (low + high) / 2
        clip = [median / norm if norm > median else 1.0 for norm in norms]
    plain = [np.float32(w * c) for w, c in zip(weights, clip, strict=True)]
    found = {}
    for name in deltas[0]:
        found[name] = plain
        if settings["combine"] == "mean" or name in embeddings:
            continue
        norms = [math.sqrt(each[name]) for each in of_tensor]
        unit = [
            np.float32(w / n) if n >= 2.0**-60 else np.float32(0) for w, n in zip(weights, norms, strict=True)
        ]
        total = np.zeros_like(deltas[0][name])
        for factor, delta in zip(unit, deltas, strict=True):
            total = total + factor * delta[name]
        others = {other: np.zeros_like(values) for other, values in deltas[0].items()}
        size = squares({**others, name: total})[name]
        if size >= 2.0**-32:
            length = 0.0
            for w, c, n in zip(weights, clip, norms, strict=True):
                length += w * c * n
            found[name] = [np.float32(float(u) * (length / math.sqrt(size))) for u in unit]
    return found


def put(blobs: Blobs, data: bytes) -> str:
    blobs[address(data)] = data
    return address(data)


def put_artifact(blobs: Blobs, layout_sha: str, layout: Any, kind: str, tensors: Tensors) -> str:
    shards = [{"bytes": len(data), "sha256": put(blobs, data)} for data in cut(layout, tensors)]
    return put(
        blobs,
        canonical(
            {
                "format": "tapestry.artifact",
                "kind": kind,
                "layout": layout_sha,
                "shards": shards,
                "version": 1,
            }
        ),
    )


def merge(blobs: Blobs, job: Any) -> tuple[str, Blobs]:
    """Digest of the next state, and every blob that belongs to it.

    Args:
        blobs: all inputs.
        job: the JSON value of a `tapestry.merge-job`.
    """
    state = read_message(blobs, job["state"], "tapestry.state")
    layout = read_message(blobs, job["layout"], "tapestry.layout")
    settings = job["merge"]
    contributions = sorted(job["contributions"], key=lambda c: (c["member"], c["node"]))
    assert sum(c["weight"] for c in contributions) == 2**24
    base = read_tensors(blobs, state["base"], "base", layout)
    momentum = {name: np.zeros_like(values) for name, values in base.items()}
    if state["outer"] is not None and settings["outer"] in ("nesterov", "delayed"):
        momentum = read_tensors(blobs, state["outer"], "outer", layout)
    if all(job["codec"][kind]["kind"] == "fp32" for kind in ("matrices", "embeddings", "norms")):
        deltas = [read_tensors(blobs, c["delta"], "delta", layout) for c in contributions]
    else:
        deltas = [read_encoded(blobs, c["delta"], layout, job["codec"]) for c in contributions]
    new_base, new_momentum = {}, {}
    units = [c["weight"] for c in contributions]
    names = set(job["codec"]["embedding_names"])
    embeddings = {name for name in base if base[name].ndim > 1 and not names.isdisjoint(name.split("."))}
    with np.errstate(all="ignore"):
        factors = factors_of(settings, units, deltas, cut_rows(layout), embeddings)
        for name in base:
            average = settings["average"]
            if settings["embedding_rows"] == "users" and name in embeddings:
                average = "users"
            new_base[name], new_momentum[name] = merge_values(
                base[name],
                momentum[name],
                [delta[name] for delta in deltas],
                units,
                outer=settings["outer"],
                rate=settings["outer_rate"],
                mu=settings["outer_momentum"],
                factors=factors[name],
                average=average,
                refresh=settings["refresh"],
                number=state["merges"] + 1,
            )
            if not np.isfinite(new_base[name]).all():
                raise ArithmeticError("the merged base is not finite")
            if settings["outer"] == "delayed" and not np.isfinite(new_momentum[name]).all():
                raise ArithmeticError("the merged momentum is not finite")
    made: Blobs = {}
    base_sha = put_artifact(made, job["layout"], layout, "base", new_base)
    outer_sha = None
    if settings["outer"] in ("nesterov", "delayed"):
        outer_sha = put_artifact(made, job["layout"], layout, "outer", new_momentum)
    following = {
        "base": base_sha,
        "format": "tapestry.state",
        "merges": state["merges"] + 1,
        "model": state["model"],
        "outer": outer_sha,
        "run": state["run"],
        "version": 1,
    }
    return put(made, canonical(following)), made
