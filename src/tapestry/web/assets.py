"""Files that pages load: read once, named by their content, so that a browser keeps them for good."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final, Self

from starlette.requests import Request
from starlette.responses import Response

from tapestry.errors import NotFound

PREFIX: Final = "/static"
KEPT: Final = "public, max-age=31536000, immutable"
_SERVED: Final = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
    ".webmanifest": "application/manifest+json",
}
"""Nothing else is: licences stay where they are read."""


@dataclass(frozen=True)
class Asset:
    name: str
    """As templates call it: `app.css`, `vendor/uplot/uPlot.min.css`."""
    path: str
    """As browsers call it, with its content's hash."""
    kind: str
    plain: bytes
    packed: bytes


class Assets:
    """All files below `static/`."""

    def __init__(self, found: Iterator[Asset]) -> None:
        self._by_name = {asset.name: asset for asset in found}
        self._by_path = {asset.path: asset for asset in self._by_name.values()}

    @classmethod
    def load(cls) -> Self:
        return cls(_read(resources.files(__package__).joinpath("static"), ""))

    def path(self, name: str) -> str:
        """Where a browser finds a file. Raises `KeyError`."""
        return self._by_name[name].path

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._by_name)

    async def serve(self, request: Request) -> Response:
        """The endpoint below `PREFIX`."""
        asset = self._by_path.get(request.url.path)
        if asset is None:
            raise NotFound("there is no such file")
        headers = {"Cache-Control": KEPT, "Vary": "Accept-Encoding"}
        data = asset.plain
        if "gzip" in request.headers.get("accept-encoding", ""):
            data, headers["Content-Encoding"] = asset.packed, "gzip"
        return Response(data, headers=headers, media_type=asset.kind)


def _read(folder: Traversable, prefix: str) -> Iterator[Asset]:
    for item in sorted(folder.iterdir(), key=lambda f: f.name):
        name = prefix + item.name
        stem, dot, ending = name.rpartition(".")
        if item.is_dir():
            yield from _read(item, f"{name}/")
        elif dot + ending in _SERVED:
            data = item.read_bytes()
            digest = hashlib.sha256(data).hexdigest()[:12]
            path = f"{PREFIX}/{stem}.{digest}.{ending}"
            yield Asset(name, path, _SERVED[dot + ending], data, gzip.compress(data, 9, mtime=0))
