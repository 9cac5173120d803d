"""Files from a place that nobody trusts: static mirrors of what can be verified from its bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx

from tapestry.errors import NotFound, TooLarge, Unreachable

PATIENCE_S: Final = 30.0
PIECE_BYTES: Final = 1 << 20


def fetch(url: str, path: Path, *, max_bytes: int) -> None:
    """Write what lies at an address to a new file.

    Raises:
        NotFound: there is nothing.
        TooLarge: it has more bytes than that; no more were read.
        Unreachable: no connection, or it broke off.
    """
    written = 0
    try:
        with (
            httpx.stream("GET", url, timeout=PATIENCE_S, headers={"Accept-Encoding": "identity"}) as answer,
            path.open("xb") as out,
        ):
            if answer.status_code != httpx.codes.OK:
                raise NotFound(f"there is no file at {url}: status {answer.status_code}")
            for piece in answer.iter_raw(PIECE_BYTES):
                written += len(piece)
                if written > max_bytes:
                    raise TooLarge(f"the file at {url} has more than {max_bytes} bytes")
                out.write(piece)
    except (httpx.HTTPError, httpx.InvalidURL) as e:
        raise Unreachable(f"{url} cannot be read: {e}", hint="look whether the address is right") from e


def getter(url: str, folder: Path, *, max_bytes: int) -> Callable[[str], Path]:
    """What fetches a file below an address by its name, into a folder that holds one at a time.

    Args:
        url: of the mirror.
        folder: an empty one.
        max_bytes: of one file.
    """

    def get(name: str) -> Path:
        for former in folder.iterdir():
            former.unlink()
        fetch(f"{url.rstrip('/')}/{name}", folder / name, max_bytes=max_bytes)
        return folder / name

    return get
