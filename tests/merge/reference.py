"""The merge a second time, from docs/formats/ alone: numpy, and nothing of `src/`.

Works on a dictionary of blobs (address → bytes). It reads every shard's own header, puts whole
tensors together, does the arithmetic on whole tensors, and cuts the result anew.
"""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

import numpy as np

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


def cut(layout: Any, tensors: Tensors) -> list[bytes]:
    """Shards of a tensor state: row by row into a shard until the next one does not fit."""
    limit = layout["shard_bytes"]
    shards: list[list[tuple[str, int, int]]] = [[]]
    used = 0
    for tensor in layout["tensors"]:
        name, shape = tensor["name"], tensor["shape"]
        rows = shape[0] if shape else 1
        row_bytes = 4 * int(np.prod(shape[1:], dtype=np.int64))
        for row in range(rows):
            if used + row_bytes > limit:
                shards.append([])
                used = 0
            here = shards[-1]
            if here and here[-1][0] == name:
                here[-1] = (name, here[-1][1], row + 1)
            else:
                here.append((name, row, row + 1))
            used += row_bytes
    result = []
    for plan in shards:
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
) -> tuple[np.ndarray, np.ndarray]:
    """New base and new momentum of one tensor; every numpy operation rounds once, in binary32."""
    rate32, mu32 = np.float32(rate), np.float32(mu)
    total = np.zeros_like(base)
    for delta, units in zip(deltas, weights, strict=True):
        weight = np.float32(units) / np.float32(2**24)
        total = total + weight * delta
    if outer == "fedavg":
        return base - total, momentum
    momentum = mu32 * momentum + total
    step = total + mu32 * momentum
    return base - rate32 * step, momentum


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
    if state["outer"] is not None and settings["outer"] == "nesterov":
        momentum = read_tensors(blobs, state["outer"], "outer", layout)
    deltas = [read_tensors(blobs, c["delta"], "delta", layout) for c in contributions]
    new_base, new_momentum = {}, {}
    with np.errstate(all="ignore"):
        for name in base:
            new_base[name], new_momentum[name] = merge_values(
                base[name],
                momentum[name],
                [delta[name] for delta in deltas],
                [c["weight"] for c in contributions],
                outer=settings["outer"],
                rate=settings["outer_rate"],
                mu=settings["outer_momentum"],
            )
            if not np.isfinite(new_base[name]).all():
                raise ArithmeticError("the merged base is not finite")
    made: Blobs = {}
    base_sha = put_artifact(made, job["layout"], layout, "base", new_base)
    outer_sha = None
    if settings["outer"] == "nesterov":
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
