"""`serve`: API, coordinator and log of one core in one process, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import socket
import ssl
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import uvicorn
import uvloop
from starlette.types import ASGIApp
from uvicorn.protocols.http import h11_impl

from tapestry.core.api import Api
from tapestry.core.clock import Clock, now_ms
from tapestry.core.coordinator import Coordinator
from tapestry.core.home import Home
from tapestry.core.lead import lead
from tapestry.core.logs import CoreLog
from tapestry.core.mirror import Mirror, keep
from tapestry.core.proofs import Proofs
from tapestry.core.quota import Quota
from tapestry.core.service import Core
from tapestry.core.settings import CoreSettings
from tapestry.core.staging import replayer_of, staged
from tapestry.core.votes import Votes, keep_deadlines
from tapestry.core.watch import Watch
from tapestry.errors import DiskFull, ResourceError, SettingsError, TapestryError
from tapestry.host import files, processes
from tapestry.replay.client import Replayer
from tapestry.transport import listening, observe
from tapestry.transport.server import Shell

if TYPE_CHECKING:
    from tapestry.core.metrics import CoreMetrics

DIE_VARIABLE: Final = "TAPESTRY_DIE_WITH_PARENT"
GRACE_S: Final = 5
"""Requests in flight get so long when the core is told to stop."""
PARTIAL_KEPT_S: Final = 7 * 86_400.0
"""A half-sent blob that nobody went on with for so long is removed at the next start."""
STATUS_BYTES: Final = 16 << 10
"""The status file is padded to this size, so that a full disk has room for the next one in its place."""
BODY_AHEAD_BYTES: Final = 512 << 10
"""Of a body that a connection may hold unread. uvicorn's own 64 KiB stops and starts the socket with each
record of TLS, which costs an upload a third of its processor time; there is no setting for it."""
ARENAS: Final = 2
"""In which `malloc` of glibc keeps what is freed. By default each thread has one of its own, up to eight a
core of the machine, and none gives back what another could use."""
_M_ARENA_MAX: Final = -8
"""From glibc's malloc.h."""


def serve(root: Path, *, ready: Callable[[str], None] | None = None, clock: Clock = now_ms) -> None:
    """Serve the core in folder `root` until SIGTERM or SIGINT.

    Args:
        root: the core's home.
        ready: told the URL once requests are answered; by default it is printed, on one line.
        clock: the core's.

    Raises:
        Busy: another process serves this core.
        PortInUse: somebody listens on its port.
        SettingsError, StoreError, VersionError, AuthError: as of `Core.open`.
    """
    if os.environ.get(DIE_VARIABLE) == "1":
        processes.die_with_parent()
    _limit_arenas()
    home = Home(root)
    home.check()
    with files.Lock(root), Core.open(root, clock=clock) as core, contextlib.ExitStack() as stack:
        core.store.check()
        core.store.clean(older_than_s=PARTIAL_KEPT_S)
        sock = listen(core.settings)
        stack.callback(sock.close)
        if core.settings.metrics.port is not None:
            observe.needs_client()
        log = CoreLog(home.log)
        stack.callback(log.close)
        replayer = replayer_of(core)
        stack.callback(replayer.close)
        serving = _Serving(core, replayer, log, sock)
        stack.callback(serving.close)
        uvloop.run(serving.run(ready or _print_url))


def _limit_arenas() -> None:
    """Nothing happens where the C library is another; threads that run already keep theirs."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS)


def listen(settings: CoreSettings) -> socket.socket:
    """A socket bound to the core's address. Raises `PortInUse` or `SettingsError`."""
    return listening.listen(settings.host, settings.port, where="core.toml")


class _Serving:
    """What runs between start and stop."""

    def __init__(self, core: Core, replayer: Replayer, log: CoreLog, sock: socket.socket) -> None:
        self._core = core
        self._replayer = replayer
        self._log = log
        self._sock = sock
        self._url = _url(core.settings, sock)
        self._metrics: CoreMetrics | None = None
        self._observed: observe.Observed | None = None

    def close(self) -> None:
        if self._observed is not None:
            self._observed.close()

    def _observe(self, trouble: Mapping[str, str]) -> None:
        """Listen for Prometheus, where core.toml says so."""
        given = self._core.settings
        if given.metrics.port is None:
            return
        from tapestry.core.metrics import CoreMetrics, expiry_of

        ends = None if given.tls is None else expiry_of(self._core.home.root / given.tls.certificate)
        self._metrics = CoreMetrics(self._core, trouble, ends)
        self._observed = observe.Observed(given.metrics, self._metrics.page, self._metrics.health)

    def _tell(self, event: str, fields: Mapping[str, Any]) -> None:
        self._log.tell(event, fields)
        if self._metrics is not None:
            self._metrics.tell(event, fields)

    def _fault(self, error: BaseException, method: str, path: str) -> None:
        self._log.unexpected(error, method, path)
        if self._metrics is not None:
            self._metrics.unexpected()

    async def run(self, ready: Callable[[str], None]) -> None:
        watch = Watch()
        self._core.journal.listener = watch.tell_from_thread
        quota = Quota(self._core.settings.limits.pending_bytes)
        replay = staged(self._replayer, self._core.store)
        coordinator = Coordinator(
            self._core.runs,
            replay,
            watch,
            copies=self._core.copies(replay),
            quota=quota,
            tell=self._tell,
            trouble_changed=self._write_status,
        )
        api = Api(self._core, watch, quota, coordinator)
        self._observe(coordinator.trouble)
        server = listening.Server(self._config(api))
        self._log.take_over("uvicorn", "uvicorn.error", "uvicorn.asgi", "asyncio")
        stop = asyncio.Event()
        with listening.stopped_by_signals(stop.set), self._core.database.leading() as leadership:
            follow = asyncio.create_task(
                watch.follow(self._core.journal.sequences, self._unreadable), name="watch"
            )
            work = asyncio.create_task(lead(leadership, coordinator, self._tell), name="lead")
            http = asyncio.create_task(server.serve(sockets=[self._sock]), name="http")
            mirror = asyncio.create_task(self._mirror(), name="mirror")
            votes = Votes(self._core.journal, self._core.consortium.id)
            deadlines = asyncio.create_task(keep_deadlines(votes, self._log.tell), name="deadlines")
            stopped = asyncio.create_task(stop.wait(), name="stop")
            try:
                await self._announce(server, http, ready)
                await asyncio.wait(
                    {work, follow, http, deadlines, stopped}, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                watch.close()
                server.should_exit = True
                stopped.cancel()
                await asyncio.gather(http, return_exceptions=True)
                await asyncio.to_thread(self._replayer.close)
                self._core.journal.listener = None
                work.cancel()
                follow.cancel()
                mirror.cancel()
                deadlines.cancel()
                await asyncio.gather(work, follow, mirror, deadlines, return_exceptions=True)
                self._core.home.status.unlink(missing_ok=True)
                self._core.home.progress.unlink(missing_ok=True)
                self._log.tell("stopped", {})
        for task in (http, work, follow, deadlines):
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _mirror(self) -> None:
        core = self._core
        if (folder := core.settings.mirror_at(core.home)) is not None:
            proofs = Proofs(core.journal, core.consortium)
            await keep(Mirror(folder, core.journal, proofs, core.store), self._log.tell)

    def _unreadable(self, error: TapestryError) -> None:
        self._tell("log-unreadable", {"code": error.code, "error": error.message})

    async def _announce(
        self, server: uvicorn.Server, http: asyncio.Task[None], ready: Callable[[str], None]
    ) -> None:
        while not server.started and not http.done():
            await asyncio.sleep(0.005)
        if server.started:
            self._write_status({})
            self._log.tell("serving", {"url": self._url, "consortium": self._core.consortium.id})
            ready(self._url)

    def _write_status(self, trouble: Mapping[str, str]) -> None:
        value = {"pid": os.getpid(), "url": self._url, "trouble": dict(trouble)}
        if self._observed is not None:
            value["metrics"] = self._observed.url
        data = json.dumps(value).encode().ljust(STATUS_BYTES) + b"\n"
        path = self._core.home.status
        with contextlib.suppress(OSError, ResourceError):
            path.parent.mkdir(exist_ok=True)
            try:
                files.write_atomic(path, data, durable=False)
            except DiskFull:  # which is just what has to be told
                files.overwrite(path, data)

    def _config(self, api: Api) -> uvicorn.Config:
        tls = self._core.settings.tls
        root = self._core.home.root
        options: dict[str, Any] = {}
        if tls is not None:
            options = {"ssl_certfile": root / tls.certificate, "ssl_keyfile": root / tls.key}
        h11_impl.HIGH_WATER_LIMIT = BODY_AHEAD_BYTES  # type: ignore[attr-defined]
        shell: ASGIApp = Shell(api.app(), time=api.now, unexpected=self._fault)
        config = uvicorn.Config(
            shell if self._metrics is None else self._metrics.counted(shell),
            http=listening.Connection,
            ws="none",
            loop="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=listening.MAX_HEADER_BYTES,
            limit_concurrency=self._core.settings.limits.connections,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=GRACE_S,
            **options,
        )
        try:
            config.load()
        except (OSError, ssl.SSLError) as e:
            raise SettingsError(
                f"the certificate of this core cannot be used: {e}", hint="correct [tls] in core.toml"
            ) from e
        return config


def _url(settings: CoreSettings, sock: socket.socket) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    if ":" in host:
        host = f"[{host}]"
    scheme = "http" if settings.tls is None else "https"
    return f"{scheme}://{host}:{sock.getsockname()[1]}"


def _print_url(url: str) -> None:
    sys.stdout.write(f"core listens on {url}\n")
    sys.stdout.flush()
