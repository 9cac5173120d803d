"""How a dashboard is set up; the command line builds it, everything else reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

PORT = 8471
LOOPBACK = "127.0.0.1"
PROXIES = ("127.0.0.0/8", "::1/128")
"""This machine."""
Opened = Literal["public", "member"]


@dataclass(frozen=True, kw_only=True)
class WebSettings:
    """
    Args:
        core_url: of the core that is followed; None where only a node's own page is served.
        listen, port: where browsers connect. 0: any port that is free.
        names: host names that a browser may call it by, besides those of this machine where it listens on
            loopback; with none, and not on loopback, any.
        opened: whoever looks has this role without signing in. `member` is for a machine that only its
            member uses.
        state: folder in which the ledger is kept between starts; None: one that goes with the process.
        every_s: how often the core is asked what is new.
        streams: live views at once; who comes later asks now and then instead.
        streams_each: of these, of one member or address (`holders`); this machine itself has more.
        proxies: networks whose word on whom they speak for is taken (`X-Forwarded-For`).
        node: home of a node on this machine, for the page of what left it.
        ca: PEM file of the authority of the core's certificate.
    """

    core_url: str | None = None
    listen: str = LOOPBACK
    port: int = PORT
    names: tuple[str, ...] = ()
    opened: Opened = "public"
    state: Path | None = None
    every_s: float = 1.0
    streams: int = 200
    streams_each: int = 16
    proxies: tuple[str, ...] = PROXIES
    node: Path | None = None
    ca: Path | None = None
    alone: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By run and member: bits per byte of the same model trained on the member's text alone."""
    releases: tuple[str, ...] = field(default=())
    """Folders or addresses of release repositories."""
    origins: tuple[str, ...] = ()
    """Addresses, as `https://host:port`, under which browsers know it: members sign in under these alone.
    With none, and on loopback, it is this machine's names for itself, at the port that is listened on."""

    @property
    def loopback(self) -> bool:
        return self.listen in ("127.0.0.1", "::1", "localhost")
