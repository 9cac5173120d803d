"""Endpoints of blobs: which lack, and their bytes in and out, through the core or past it."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import Depends, Request, Response

from tapestry.core.coordinator import Coordinator
from tapestry.core.direct import LEAST_BYTES, direct
from tapestry.core.ledger_api import Signed
from tapestry.core.quota import Quota
from tapestry.core.service import Core
from tapestry.errors import Conflict, DiskFull, FormatError, NotFound, TooLarge
from tapestry.host import failpoints
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Blob
from tapestry.storage.blobs import BlobStore
from tapestry.storage.receiver import Receiver
from tapestry.transport import server, wire
from tapestry.transport.server import Call

PIECE_BYTES: Final = 256 << 10
"""Read from or written to the disk at once."""

SignedList = Annotated[Call, Depends(server.signed_list)]
SignedBlob = Annotated[Call, Depends(server.signed_blob)]
Endpoint = Callable[..., Any]


class BlobsApi:
    """Over one core.

    Args:
        core: whose blobs they are.
        quota: how much each node may leave here.
        coordinator: hears when the disk is full.
    """

    def __init__(self, core: Core, quota: Quota, coordinator: Coordinator) -> None:
        self._core = core
        self._quota = quota
        self._coordinator = coordinator
        self._direct = direct(core.settings, core.store, quota)

    def routes(self) -> tuple[tuple[str, str, Endpoint], ...]:
        return (
            ("POST", "/v1/blobs/missing", self.missing),
            ("PUT", "/v1/blobs/{sha}", self.put_blob),
            ("POST", "/v1/blobs/{sha}", self.place_blob),
            ("GET", "/v1/blobs/{sha}", self.get_blob),
        )

    async def missing(self, request: Request, call: SignedList) -> Response:
        server.query(request)
        body = server.json_object(call.body, "blobs", max_bytes=wire.MAX_MISSING_BYTES)
        asked = body["blobs"]
        if not isinstance(asked, list) or len(asked) > wire.MAX_MISSING:
            raise FormatError(f"blobs must be a list of at most {wire.MAX_MISSING} addresses")
        if not all(isinstance(sha, str) and canonical.is_sha256(sha) for sha in asked):
            raise FormatError("blobs holds what is not the address of a blob")
        store = self._core.store

        def look() -> dict[str, int]:
            return {sha: store.partial(sha) for sha in store.lacking(asked)}

        offered = {} if self._direct is None else {"direct": LEAST_BYTES}
        return server.answer({"missing": await asyncio.to_thread(look), **offered})

    async def place_blob(self, request: Request, sha: str, call: SignedBlob) -> Response:
        """Ask where to put a blob, and ask again when it lies there."""
        asked = server.query(request, bytes=None)
        if self._direct is None:
            raise NotFound("blobs are sent to this core itself")
        expected = self._expected(sha, asked["bytes"])
        try:
            url = await asyncio.to_thread(self._direct.place, str(call.by.node), expected)
        except DiskFull as error:
            self._coordinator.taking_in(error)
            raise
        if url is None:
            self._coordinator.taking_in(None)
            failpoints.reach("core.blob.received")
        return server.answer({"sha256": sha, "bytes": expected.bytes, "url": url})

    async def put_blob(self, request: Request, sha: str, call: SignedBlob) -> Response:
        asked = server.query(request, bytes=None, offset=0)
        expected = self._expected(sha, asked["bytes"])
        most = max(0, expected.bytes - asked["offset"])
        server.stated_size(request, most)
        node = str(call.by.node)
        # In full, so that uploads that begin at the same moment are not each let in by what is left now.
        self._quota.reserve(node, sha, most, math.inf)
        try:
            receiver = await asyncio.to_thread(self._core.store.receive, expected)
            with receiver:
                if not receiver.complete and receiver.offset != asked["offset"]:
                    error = Conflict(
                        f"blob {sha} goes on at byte {receiver.offset}", hint="send it from that offset on"
                    )
                    return server.failure(error, offset=receiver.offset)
                if not receiver.complete:
                    await self._receive(request, receiver, most, node)
        finally:
            self._quota.forget(node, sha)
        if receiver.complete:
            failpoints.reach("core.blob.received")
        return server.answer({"sha256": sha, "bytes": expected.bytes, "offset": receiver.offset})

    def _expected(self, sha: str, size: int) -> Blob:
        most = self._core.settings.limits.blob_bytes
        if size > most:
            raise TooLarge(f"a blob has at most {most} bytes here, not {size}")
        return Blob(sha256=sha, bytes=size)

    async def _receive(self, request: Request, receiver: Receiver, most: int, node: str) -> None:
        """Socket to disk. What came before a broken connection is kept."""
        before = receiver.offset
        try:
            async for piece in server.pieces(request, most, gather_bytes=PIECE_BYTES):
                await asyncio.to_thread(receiver.write, piece)
            if receiver.offset == receiver.expected.bytes:
                await asyncio.to_thread(receiver.finish)
            self._coordinator.taking_in(None)
        except DiskFull as error:
            self._coordinator.taking_in(error)
            raise
        finally:
            self._quota.charge(node, receiver.offset - before)

    async def get_blob(self, request: Request, sha: str, call: Signed) -> Response:
        server.query(request)
        store = self._core.store
        if self._direct is not None and wire.DIRECT_HEADER in request.headers:
            source = await asyncio.to_thread(self._direct.source, sha)
            if source is not None:
                answer = server.answer(source)
                answer.headers.update({wire.DIRECT_HEADER: "1", "Cache-Control": "no-store"})
                return answer
        size = await asyncio.to_thread(_verified_size, store, sha)
        try:
            part = server.byte_range(request, size)
        except ValueError:
            return Response(None, 416, {"Content-Range": f"bytes */{size}"})
        start, stop = part or (0, size)
        headers = {"Accept-Ranges": "bytes"}
        if part is not None:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        reader = _Reader(store, sha, start, stop)
        return server.Streamed(
            reader.read, reader.close, size=stop - start, status=206 if part else 200, headers=headers
        )


def _verified_size(store: BlobStore, sha: str) -> int:
    size = store.size(sha)
    if not store.verify(Blob.model_construct(sha256=sha, bytes=size)):
        raise NotFound(f"blob {sha} was damaged and has been removed")
    return size


class _Reader:
    """Pieces of a blob, read in threads."""

    def __init__(self, store: BlobStore, sha: str, start: int, stop: int) -> None:
        self._fd = store.open_for_reading(sha)
        self._at = start
        self._stop = stop

    async def read(self) -> bytes:
        piece = await asyncio.to_thread(os.pread, self._fd, min(PIECE_BYTES, self._stop - self._at), self._at)
        self._at += len(piece)
        return piece

    def close(self) -> None:
        os.close(self._fd)
