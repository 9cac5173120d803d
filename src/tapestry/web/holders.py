"""Whose a live view is, so that nobody has them all.

A member who has signed in counts as that member, wherever it looks from. Anybody else is an address: of the
connection, or, where that is of a proxy, the last in `X-Forwarded-For`, as the proxy wrote it. Where this
machine connects and tells of no other, it is this machine: a browser here, or a proxy that passes on nothing.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

from starlette.requests import Request

from tapestry.web.settings import WebSettings
from tapestry.web.viewers import Viewer

MACHINE: Final = "this machine"
HOME_BITS: Final = 64
"""Of an IPv6 address: what is behind them is one holder's, who may take any of it."""


def holder_of(settings: WebSettings, request: Request, viewer: Viewer) -> str:
    """A name to count by."""
    if viewer.member is not None:
        return f"member {viewer.member}"
    peer = _address(request.client.host if request.client is not None else "")
    if peer is not None and any(peer in ip_network(each) for each in settings.proxies):
        told = ",".join(request.headers.getlist("x-forwarded-for")).rpartition(",")[2].strip()
        peer = _address(told) or peer
    if peer is None or peer.is_loopback:
        return MACHINE
    if isinstance(peer, IPv6Address):
        return str(ip_network((peer, HOME_BITS), strict=False))
    return str(peer)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """With a port behind it or without."""
    host = text.partition(":")[0] if text.count(":") == 1 else text.removeprefix("[").partition("]")[0]
    try:
        found = ip_address(host)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found
