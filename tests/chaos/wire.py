"""A line to the core whose state changes while a node uses it; its port at the node's end stays."""

from __future__ import annotations

from benchmarks.links import Link, Proxy

PLAIN = Link()
NOWHERE = Link(delay_s=86_400.0)
"""A partition: a connection comes about, and no byte ever arrives."""
SLOW = Link(rate_bits_s=256e3, delay_s=0.08, loss=0.03)
TORN = Link(reset_chance=0.08)


class Wire:
    """Between one node and the core at `target`. A change resets the connections there are."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._proxy = self._open(PLAIN, 0, 0)
        self.port = self._proxy.port
        self.resets = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def become(self, link: Link, seed: int = 0) -> None:
        """Both ways are `link` from now on."""
        self.close()
        self._proxy = self._open(link, self.port, seed)

    def lead_to(self, target: int) -> None:
        """Another core answers at this node's end."""
        self._target = target
        self.become(PLAIN)

    def close(self) -> None:
        self._proxy.__exit__(None, None, None)
        self.resets += self._proxy.counts.resets

    def _open(self, link: Link, port: int, seed: int) -> Proxy:
        return Proxy("127.0.0.1", self._target, up=link, down=link, seed=seed, listen_port=port).__enter__()
