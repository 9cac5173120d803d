"""The demo's dashboard: one more process, without which everything goes on."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Final

from tapestry.cli.demo.children import Children
from tapestry.cli.web import PORT

NAME: Final = "dashboard"
_MAX_LOG: Final = 1 << 16


class Dashboard:
    """Of one demo, as one of its members sees it; whoever uses this machine may look.

    Args:
        children: among which it runs.
        node: whose key reads.
        core_url: of the core.
    """

    def __init__(self, children: Children, node: Path, core_url: str) -> None:
        self._log = children.log(NAME)
        self._began = self._log.stat().st_size if self._log.exists() else 0
        self._told = False
        children.start(
            *(NAME, "web", "--as", str(node), "--core", core_url, "--open-to", "member"),
            *("--port", str(_port()), "--json"),
            needed=False,
        )

    def news(self) -> str | None:
        """Where it is, once, as soon as browsers can connect."""
        if self._told or (url := self._url()) is None:
            return None
        self._told = True
        return f"watch it in a browser: {url}"

    def _url(self) -> str | None:
        try:
            with self._log.open("rb") as log:
                log.seek(self._began)
                lines = log.read(_MAX_LOG).splitlines()
        except OSError:
            return None
        for line in lines:
            if line.startswith(b'{"at"'):
                try:
                    said = json.loads(line)
                except ValueError:
                    continue
                if said.get("event") == "serving":
                    return str(said.get("url"))
        return None


def _port() -> int:
    """The usual one, or any where that is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", PORT))
        except OSError:
            return 0
    return PORT
