"""A dashboard until it is told to stop: one thread that follows the core, one server for browsers."""

from __future__ import annotations

import contextlib
import errno
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from tapestry.errors import PortInUse, ResourceError
from tapestry.transport import listening as heads
from tapestry.transport.connection import Connection
from tapestry.web import log
from tapestry.web.app import make_app
from tapestry.web.book import Book
from tapestry.web.building import Building
from tapestry.web.follow import Follower
from tapestry.web.pages.route import Route
from tapestry.web.settings import WebSettings
from tapestry.web.site import Site
from tapestry.web.source import Source

BACKLOG: Final = 256
CONNECTIONS: Final = 512
GRACE_S: Final = 5


def serve(
    settings: WebSettings,
    connection: Connection | None,
    *,
    ready: Callable[[str, str | None], None] = lambda _url, _own: None,
    more: Iterable[Route] = (),
    building: Callable[[], Building] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        settings: of the dashboard.
        connection: to the core, with a member's key or without; None where only a node's own page is served.
        ready: told the address, once browsers can connect, and the link of the node's owner.
        more: routes beside those that every dashboard has.
        building: looks at the node on this machine, whose owner is shown it by a link of its own.

    Raises:
        PortInUse, ResourceError: the address cannot be had.
    """
    with listening(settings) as sock, followed(settings, connection) as site:
        site.building = building
        config = config_of(make_app(site, more))
        url = address_of(settings, sock)
        log.say("serving", url=url)
        ready(url, f"{url}/mine/{site.owner_key}" if building is not None else None)
        _Server(config, site).run(sockets=[sock])


def config_of(app: ASGIApp) -> uvicorn.Config:
    """Whoever opens connections and sends no request is cut off: all that are allowed would be taken else."""
    return uvicorn.Config(
        app,
        http=heads.Connection,
        h11_max_incomplete_event_size=heads.MAX_HEADER_BYTES,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=GRACE_S,
    )


class _Server(uvicorn.Server):
    """Ends live views as soon as it is told to stop, for it waits until every answer is whole."""

    def __init__(self, config: uvicorn.Config, site: Site) -> None:
        super().__init__(config)
        self._site = site

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._site.live.close()
        super().handle_exit(sig, frame)


@contextlib.contextmanager
def followed(settings: WebSettings, connection: Connection | None) -> Iterator[Site]:
    """A site whose core is followed meanwhile."""
    if connection is None:
        yield Site(settings=settings)
        return
    with contextlib.ExitStack() as stack:
        folder = settings.state
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tapestry-web-")))
        site = Site(settings=settings)
        follower = Follower(
            Source(connection),
            Book(folder),
            every_s=settings.every_s,
            news=site.bell.ring,
            log=lambda told: log.say("core", told=told),
        )
        site.follower = follower
        follower.start()
        stack.callback(follower.stop)
        yield site


@contextlib.contextmanager
def listening(settings: WebSettings) -> Iterator[socket.socket]:
    """A socket that browsers can connect to. Raises `PortInUse` or `ResourceError`."""
    family = socket.AF_INET6 if ":" in settings.listen else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((settings.listen, settings.port))
            sock.listen(BACKLOG)
        except OSError as e:
            where = f"{settings.listen}:{settings.port}"
            if e.errno in (errno.EADDRINUSE, errno.EACCES):
                raise PortInUse(
                    f"the dashboard cannot listen on {where}: {e.strerror}",
                    hint="take another: --port 0 takes any that is free",
                ) from e
            raise ResourceError(f"the dashboard cannot listen on {where}: {e.strerror}") from e
        yield sock
    finally:
        sock.close()


def address_of(settings: WebSettings, sock: socket.socket) -> str:
    """What to type into a browser on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.listen, settings.listen)  # noqa: S104
    return f"http://{f'[{host}]' if ':' in host else host}:{sock.getsockname()[1]}"
