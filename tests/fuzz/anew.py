"""Ledgers with one thing changed, and then hashed and signed again by everybody whose keys there are.

So a change is not stopped at the first hash behind it: envelopes get new digests, which the entries that name
them take over; heads in contributions, attestations and successions become those of the entries that now
stand before them. It is then all of a consortium that lies.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Sequence
from random import Random
from typing import Any

from tapestry.errors import TapestryError
from tapestry.identity.envelope import pre_authentication
from tapestry.ledger.entries import Entry
from tapestry.protocol import canonical
from tests.fuzz import made
from tests.fuzz.mutate import encoded, json_bytes, json_changed

PAIRS = {pair.key_id: pair for pair in (made.ROOT, made.NODE, made.WITNESS)}
BROKEN = (TapestryError, ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)
"""What mending runs into where a change has left nothing to mend."""


def changed(random: Random, every: Sequence[bytes]) -> list[bytes]:
    """Lines of a ledger without its first, with one changed, and signed anew."""
    found, at = list(every), random.randrange(len(every))
    kind, value = next(iter(json.loads(found[at]).items()))
    chance = random.random()
    if chance < 0.1:
        found.insert(at, found[random.randrange(len(found))])
    elif chance < 0.2:
        found.pop(at)
    elif kind == "blob":
        found[at] = _line("blob", base64.b64encode(_lie(random, base64.b64decode(value))).decode())
    else:
        found[at] = encoded(json_changed(random, {kind: value}))
    return anew(found, at if random.random() < 0.7 else -1)


def anew(every: Sequence[bytes], spared: int = -1) -> list[bytes]:
    """Consistent again as far as that goes; an envelope in line `spared` keeps what it says."""
    mending, found = _Mending(), []
    for number, line in enumerate(every):
        mending.heals = number != spared
        with contextlib.suppress(*BROKEN):
            line = mending.line(line)
        found.append(line)
    return found


class _Mending:
    def __init__(self) -> None:
        self.heals = True
        self._tree = made.Tree()
        self._core = made.CORE
        self._committed = 0
        self._names: dict[bytes, bytes] = {}
        """Digests that have changed."""

    def line(self, line: bytes) -> bytes:
        line = self._renamed(line)
        value = json.loads(line)
        ((kind, held),) = value.items()
        if kind == "blob":
            return _line(kind, base64.b64encode(self._envelope(base64.b64decode(held))).decode())
        if kind == "checkpoint":
            return _line(kind, self._tree.signed(keypair=self._core))
        body = held["body"]
        for field in ("envelope", "envelopes"):
            texts = body.get(field)
            if isinstance(texts, str):
                body[field] = self._envelope(texts.encode()).decode()
            elif isinstance(texts, list):
                body[field] = [self._envelope(text.encode()).decode() for text in texts]
        held["sequence"] = len(self._tree.entries) + 1
        entry = Entry.from_json(held)
        self._tree.add(entry)
        if len(self._tree.entries) == 1:
            self._names[made.CONSORTIUM_ID.encode()] = entry.digest.encode()
        if entry.type == "round-committed":
            self._committed = entry.sequence
        if entry.type == "core-succeeded" and body.get("core_key") == made.NEXT.public_key:
            self._core = made.NEXT
        return _line("entry", entry.model_dump(mode="json"))

    def _renamed(self, data: bytes) -> bytes:
        for old, new in self._names.items():
            data = data.replace(old, new)
        return data

    def _envelope(self, data: bytes) -> bytes:
        """Signed again by the key that has signed it, with the heads that are true by now."""
        value = json.loads(data)
        payload = self._renamed(base64.b64decode(value["payload"]))
        if self.heals:
            with contextlib.suppress(*BROKEN):
                payload = canonical.encode(self._healed(json.loads(payload)))
        value["payload"] = base64.b64encode(payload).decode()
        sealed = _sealed(value)
        self._names[canonical.sha256(data).encode()] = canonical.sha256(sealed).encode()
        return sealed

    def _healed(self, said: dict[str, Any]) -> dict[str, Any]:
        if said.get("checkpoint") is not None:
            said["checkpoint"] = self._tree.signed()
        elif said["format"] == "tapestry.attestation":
            head = self._tree.head(self._committed)
            whole = made.attestation(self._tree.entries[0].digest, head)
            for field in ("size", "root", "cosignature"):
                said[field] = getattr(whole, field)
        elif said["format"] == "tapestry.succession":
            head = self._tree.head()
            said |= {"size": head.size, "root": head.root.hex()}
        return said


def _lie(random: Random, data: bytes) -> bytes:
    """An envelope that says something else."""
    value = json.loads(data)
    payload = base64.b64decode(value["payload"])
    value["payload"] = base64.b64encode(json_bytes(random, payload, [payload])).decode()
    return _sealed(value)


def _sealed(value: dict[str, Any]) -> bytes:
    pair = PAIRS[value["signatures"][0]["keyid"]]
    sig = pair.sign(pre_authentication(value["payloadType"], base64.b64decode(value["payload"])))
    value["signatures"] = [{"keyid": pair.key_id, "sig": base64.b64encode(sig).decode()}]
    return canonical.encode(value)


def _line(kind: str, value: Any) -> bytes:
    return canonical.encode({kind: value})
