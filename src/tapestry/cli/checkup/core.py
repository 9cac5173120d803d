"""Checks of a core's home, and of the core that serves from it."""

from __future__ import annotations

import errno
import http.client
import json
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from tapestry import __version__
from tapestry.cli.checkup.finding import Finding, answered, fail, ok, warn
from tapestry.cli.checkup.secrets import SOON_S, check_modes, check_tls
from tapestry.cli.checkup.watched import of_metrics
from tapestry.cli.failures import OWNER_HINT
from tapestry.protocol.clock import parse_time

if TYPE_CHECKING:
    from tapestry.core.home import Home
    from tapestry.core.service import Core
    from tapestry.core.settings import CoreSettings

ANSWER_S: Final = 5.0
PRIVATE: Final = ("*.key", "*.seed", "database.password", "object_store.toml")


def of_core(root: Path, rounds: int) -> Iterator[Finding]:
    """All of one core; without its settings nothing else can be looked at."""
    from tapestry.core import settings
    from tapestry.core.home import Home
    from tapestry.errors import TapestryError

    home = Home(root)
    try:
        given = settings.load(home)
    except TapestryError as error:
        yield fail("core settings", error.message, error.hint or "correct core.toml")
        return
    except OSError as error:
        yield fail("core settings", f"{error.filename}: {error.strerror}", OWNER_HINT)
        return
    yield ok("core settings", str(home.settings))
    yield from check_modes(home.key.parent, PRIVATE, "core's keys")
    if given.tls is None:
        yield from _without_tls(given)
    else:
        pair = (root / given.tls.certificate, root / given.tls.key)
        mend = "correct [tls] in core.toml"
        yield from answered("certificate", lambda: check_tls(*pair), mend)
    yield from of_metrics(given.metrics, "core.toml")
    yield from answered("core", lambda: _serves(root, given), "see logs/core.log of the core")
    store = list(answered("store of blobs", lambda: _store(home, given), "correct blobs in core.toml"))
    yield from store
    if any(finding.verdict == "fail" for finding in store):
        return  # without it the rest cannot be opened
    yield from answered("database", lambda: _opened(root, rounds), "restore it: tapestry core restore")


def _without_tls(given: CoreSettings) -> Iterator[Finding]:
    if given.host not in ("127.0.0.1", "::1", "localhost"):
        found = f"none, and it listens on {given.host}"
        yield warn("certificate", found, "set [tls] in core.toml: requests are signed, but can be read")


def _serves(root: Path, given: CoreSettings) -> Iterator[Finding]:
    from tapestry.core import operator

    said = operator.serving(root)
    if said is None:
        yield _port(given.host, given.port, "port")
        if given.metrics.port:
            yield _port(given.metrics.host, given.metrics.port, "metrics port")
        return
    url = str(said.get("url"))
    try:
        hello = _hello(url)
    except (OSError, ValueError, http.client.HTTPException) as e:
        yield fail(
            "core",
            f"process {said['pid']} has it, and does not answer at {url}: {e}",
            f"see {root}/logs/core.log; stop that process and start it again: tapestry core serve {root}",
        )
        return
    yield ok("core", f"serves at {url}")
    yield from _release(str(hello.get("release")), root)
    for what, words in sorted((said.get("trouble") or {}).items()):
        yield fail("trouble", f"{what}: {words}", "mend what it says; the core goes on by itself then")


def _release(release: str, root: Path) -> Iterator[Finding]:
    if release == __version__:
        yield ok("release", f"the core that serves is of release {release}")
        return
    found = f"the core that serves is of release {release}, what is installed of {__version__}"
    yield warn("release", found, f"start it again when no round is closing: tapestry core serve {root}")


def _hello(url: str) -> dict[str, Any]:
    """What the core says of itself, asked on this machine. Raises `OSError`, `ValueError`."""
    parts = urlsplit(url)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        # Its name need not be this machine's here; the file itself is looked at apart.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(
            parts.hostname or "", parts.port, timeout=ANSWER_S, context=context
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=ANSWER_S)
    try:
        connection.request("GET", "/v1/hello")
        value = json.loads(connection.getresponse().read(1 << 20))
    finally:
        connection.close()
    if not isinstance(value, dict):
        raise ValueError("that is no core")
    return value


def _port(host: str, port: int, check: str) -> Finding:
    if port == 0:
        return ok(check, "whichever is free")
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, number) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as e:
        taken = e.errno == errno.EADDRINUSE
        mend = (
            f"stop what listens there: ss -ltnp 'sport = :{port}'" if taken else "correct host in core.toml"
        )
        return fail(check, f"{host}, port {port}: {e.strerror or e}", mend)
    return ok(check, f"{port} of {host} is free; the core does not serve")


def _opened(root: Path, rounds: int) -> Iterator[Finding]:
    """What needs the core's database. Raises `TapestryError`."""
    from tapestry.cli.checkup.room import check_room
    from tapestry.core.service import Core

    with Core.open(root) as core:
        size = max(core.journal.sequences().values(), default=0)
        yield ok(
            "database", f"{core.settings.database}, {size:,} entries of consortium {core.consortium.id[:12]}"
        )
        yield from _clock(core, size)
        yield from _members(core)
        states = [core.runs.standing(name).state for name in core.runs.names()]
        folder = core.store.root
        yield from answered(
            "room for rounds",
            lambda: check_room(folder, states, core.store, rounds, at_core=True),
            "put back the blob that is lost",
        )


def _store(home: Home, given: CoreSettings) -> Iterator[Finding]:
    from tapestry.core.service import open_store

    open_store(home, given).check()
    yield ok("store of blobs", f"{given.blobs} answers")


def _clock(core: Core, size: int) -> Iterator[Finding]:
    """No entry may be of the future: deadlines are by this clock."""
    from tapestry.ledger.entries import Entry

    batch, _ = core.journal.entries(size - 1, limit=1, max_bytes=Entry.MAX_BYTES)
    newest = parse_time(Entry.from_bytes(batch[0]).at).timestamp()
    behind = newest - time.time()
    if behind > 1:
        found = f"the newest entry of the ledger is {behind:,.0f} s in the future"
        yield fail("core's clock", found, "set the clock before you serve: timedatectl set-ntp true")
    else:
        yield ok("core's clock", "not behind the newest entry of the ledger")


def _members(core: Core) -> Iterator[Finding]:
    """Nodes whose keys end soon, or have ended with nothing in their place."""
    now = core.journal.now_ms() / 1000
    best: dict[str, float] = {}
    for key in core.consortium.ring().keys.values():
        said = key.certificate
        if said.role == "node" and said.node is not None and key.revoked is None:
            best[said.node] = max(best.get(said.node, 0.0), parse_time(said.expires).timestamp())
    ended = sorted(node for node, end in best.items() if end <= now)
    soon = sorted(node for node, end in best.items() if now < end < now + SOON_S)
    mend = "have its owner call: tapestry member key rotate HOME --member DIR"
    if ended:
        yield warn("nodes' keys", f"expired: {', '.join(ended[:8])}", mend)
    if soon:
        yield warn("nodes' keys", f"expire within thirty days: {', '.join(soon[:8])}", mend)
    if best and not ended and not soon:
        yield ok("nodes' keys", f"of {len(best)} nodes, all hold for thirty days and more")
