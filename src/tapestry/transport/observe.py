"""A listener of its own for whoever watches a process: `/healthz`, and `/metrics` for Prometheus. No request
is signed, nothing is changed, and nothing is told that an operator's monitoring should not know.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from collections import Counter
from collections.abc import Callable, Collection
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from socketserver import ThreadingMixIn
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from tapestry.errors import PortInUse, SettingsError

READ_S: Final = 5.0
"""Whoever has not asked by then, or has not taken the answer, is cut off."""
AT_ONCE: Final = 16
"""Connections; one more is closed at once. Whoever is slow holds up no other: who starts processes would take
this one for dead."""
EACH: Final = 6
"""Of these from one address, so that one that opens them without end keeps out no other."""
TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"

Health = Callable[[], str | None]
"""Why a process is not well, in words; None where it is."""


class MetricsSection(BaseModel):
    """Off unless a port is given."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    host: Annotated[str, StringConstraints(min_length=1, max_length=255)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """0: whichever is free."""
    names: Annotated[tuple[str, ...], Field(strict=False, max_length=32)] = ()
    """Host names that it may be asked by, besides addresses and this machine's own. Somebody else's page, in
    a browser that reaches this listener, can give it any other."""


class Observed:
    """Listens until `close`.

    Args:
        section: where.
        metrics: the page of figures, as Prometheus reads it.
        health: asked at every `/healthz`.

    Raises:
        PortInUse, SettingsError: it cannot listen there.
    """

    def __init__(self, section: MetricsSection, metrics: Callable[[], bytes], health: Health) -> None:
        assert section.port is not None  # noqa: S101 - else there is nothing to listen for
        try:
            self._server = _Server(section, _handler(metrics, health, own_names(section)))
        except OSError as e:
            if e.errno == errno.EADDRINUSE:
                raise PortInUse(
                    f"port {section.port} of {section.host}, for metrics, is in use",
                    hint="stop what listens there, or set another port under [metrics]",
                ) from e
            raise SettingsError(
                f"cannot listen on {section.host}, port {section.port}, for metrics: {e.strerror or e}",
                hint="correct host and port under [metrics]",
            ) from e
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        name = str(host)
        return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(READ_S)


class _Server(ThreadingMixIn, HTTPServer):
    daemon_threads = True

    def __init__(self, section: MetricsSection, handler: type[BaseHTTPRequestHandler]) -> None:
        self._free = threading.BoundedSemaphore(AT_ONCE)
        self._lock = threading.Lock()
        self._from: Counter[str] = Counter()
        if ":" in section.host:
            self.address_family = socket.AF_INET6
        super().__init__((section.host, section.port or 0), handler)

    def server_bind(self) -> None:
        """Without the look-up of this machine's own name, which may take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._let_in(client_address[0]):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._gone(client_address[0])
            raise

    def _let_in(self, address: str) -> bool:
        with self._lock:
            if self._from[address] >= EACH or not self._free.acquire(blocking=False):
                return False
            self._from[address] += 1
            return True

    def _gone(self, address: str) -> None:
        with self._lock:
            self._free.release()
            self._from[address] -= 1
            self._from += Counter()  # those that have none are forgotten

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        late = threading.Timer(READ_S, _cut_off, (request,))
        late.daemon = True
        late.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            late.cancel()
            self._gone(client_address[0])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asks badly is not answered; nothing of it is written down."""


def _cut_off(connection: socket.socket) -> None:
    """From reading: an answer that is being made goes out still."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RD)


def own_names(section: MetricsSection) -> frozenset[str]:
    """What this listener may be called by, addresses aside."""
    own = socket.gethostname().lower()
    names = (each.lower() for each in section.names)
    return frozenset({"localhost", section.host.lower(), own, own.partition(".")[0], *names})


def known(hosts: list[str], names: Collection[str]) -> bool:
    """Whether a request's `Host` is one of ours. An address is: a page can have its own name lead here, and
    no address. Whoever sends none is no browser."""
    if len(hosts) != 1:
        return not hosts
    host = hosts[0].strip().lower()
    if host.startswith("["):
        name, closed, port = host[1:].partition("]")
        port = port if closed else "none"
    else:
        name, colon, port = host.partition(":")
        port = colon + port
    if port and not (port.startswith(":") and port[1:].isdecimal()):
        return False
    try:
        ip_address(name)
    except ValueError:
        return name in names
    return True


def _handler(
    metrics: Callable[[], bytes], health: Health, names: Collection[str]
) -> type[BaseHTTPRequestHandler]:
    one_by_one = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        timeout = READ_S
        server_version = "tapestry"
        sys_version = ""

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if not known(self.headers.get_all("Host") or [], names):
                words = b"this listener is not known under that name; see names under [metrics]\n"
                self._answer(421, "text/plain; charset=utf-8", words)
            elif path == "/metrics":
                with one_by_one:
                    page = metrics()
                self._answer(200, TEXT, page)
            elif path == "/healthz":
                with one_by_one:
                    why = health()
                words = b"ok\n" if why is None else why.encode() + b"\n"
                self._answer(200 if why is None else 503, "text/plain; charset=utf-8", words)
            else:
                self._answer(404, "text/plain; charset=utf-8", b"there is /healthz and /metrics\n")

        def _answer(self, code: int, kind: str, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: a scrape every few seconds is no event."""

    return Handler


def has_client() -> bool:
    """Whether the library that writes metrics is installed."""
    from importlib.util import find_spec

    return find_spec("prometheus_client") is not None


def needs_client() -> None:
    """Raise `SettingsError` where it is not."""
    if not has_client():
        raise SettingsError(
            "metrics are asked for, and the package prometheus-client is not installed",
            hint="pip install 'tapestry[metrics]', or take out port under [metrics]",
        )
