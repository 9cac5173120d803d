"""`Replayer`: the worker as the actors see it. Loads no torch."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Self, TypeVar

from tapestry.errors import ProcessDied
from tapestry.host import processes
from tapestry.host.isolation import Level
from tapestry.protocol import canonical
from tapestry.protocol.encoding import PLAIN, Codec
from tapestry.protocol.message import Message
from tapestry.replay.job import (
    MAX_LINE_BYTES,
    Failure,
    MergeJob,
    MergeResult,
    OverlapJob,
    Overlapped,
    Ready,
    Screened,
    ScreenJob,
    SketchAt,
)

A = TypeVar("A", bound=Message)

ATTEMPTS = 5
_PAUSE_S = 0.2
_GRACE_S = 5.0


class Replayer:
    """Owns one resident worker for a blob folder; usable from several threads, one request at a time.

    The worker starts with the first request (or `start`). When it dies it is started again and the
    request repeated: a merge of the same inputs writes the same blobs.

    Args:
        blob_root: the blob folder.
        threads: shards worked on at once.
        log_path: where the worker's standard error goes; `logs/replay.log` beside the blob folder if None.
        sketches: folder of the sketches it draws; `sketches` beside the blob folder if None.

    Raises (from every request):
        ProcessDied: the worker died `ATTEMPTS` times over one request, or `close` was called meanwhile.
        TapestryError: what the worker answered.
    """

    def __init__(
        self,
        blob_root: Path | str,
        *,
        threads: int = 2,
        log_path: Path | None = None,
        sketches: Path | None = None,
    ) -> None:
        self.blob_root = Path(blob_root)
        self._sketches = sketches or self.blob_root.parent / "sketches"
        self.log_path = log_path or self.blob_root.parent / "logs" / "replay.log"
        self._threads = threads
        self._lock = threading.Lock()
        self._child: processes.Child | None = None
        self._isolation: Level | None = None
        self._closed = False

    def merge(self, job: MergeJob) -> MergeResult:
        """The state after `job`; errors as of `engine.Engine.merge`."""
        return self._request(job, MergeResult)

    def screen(
        self,
        delta_digest: str,
        layout_digest: str,
        codec: Codec = PLAIN,
        fragment: int = 0,
        largest_norm: float | None = None,
        sketch: SketchAt | None = None,
    ) -> None:
        """Raise `ArtifactError` with the reason unless the delta has the form of this fragment of its layout
        and is finite, and `OverNorm` where its norm is larger than that. Keep its sketch, where asked to."""
        job = ScreenJob(
            delta=delta_digest,
            layout=layout_digest,
            codec=codec,
            fragment=fragment,
            largest_norm=largest_norm,
            sketch=sketch,
        )
        self._request(job, Screened)

    def overlap(self, job: OverlapJob) -> Overlapped:
        """How far a screened delta overlaps with others. Raises `StoreError` where its sketch is lost."""
        return self._request(job, Overlapped)

    def start(self) -> Level:
        """Start the worker where it does not run, and say how far it is cut off from the network."""
        with self._lock:
            for attempt in range(ATTEMPTS):
                try:
                    self._running()
                    break
                except _Died as e:
                    self._reap(e, attempt)
            assert self._isolation is not None  # noqa: S101 - set by _running
            return self._isolation

    @property
    def pid(self) -> int | None:
        """Process id of the worker; None while none was started."""
        child = self._child
        return child.pid if child is not None else None

    def close(self) -> None:
        """End the worker. A request in flight fails; later ones too."""
        self._closed = True
        if self._lock.acquire(timeout=0):
            try:
                self._end_idle()
            finally:
                self._lock.release()
        elif (child := self._child) is not None:
            child.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _request(self, message: Message, kind: type[A]) -> A:
        line = message.to_bytes() + b"\n"
        with self._lock:
            for attempt in range(ATTEMPTS):
                try:
                    return self._exchange(line, kind)
                except _Died as e:
                    self._reap(e, attempt)
        raise AssertionError("the last attempt raises")

    def _exchange(self, line: bytes, kind: type[A]) -> A:
        answer = self._talk(self._running(), line, kind)
        if isinstance(answer, Failure):
            raise answer.error()
        return answer

    def _running(self) -> processes.Child:
        if self._closed:
            raise ProcessDied("the replay worker was closed")
        if self._child is None:
            child = self._child = processes.spawn(
                "replay",
                [
                    *(sys.executable, "-P", "-m", "tapestry.replay"),
                    *("--threads", str(self._threads), "--sketches", str(self._sketches)),
                    str(self.blob_root),
                ],
                log_path=self.log_path,
                pipes=True,
            )
            ready = self._talk(child, b"", Ready)
            if isinstance(ready, Failure):
                self._kill()
                raise ready.error()
            self._isolation = ready.isolation
        return self._child

    def _talk(self, child: processes.Child, line: bytes, kind: type[A]) -> A | Failure:
        """Send a line and take the answer; whatever comes between them costs the worker its life, since
        its answer would be taken for that to the next request."""
        assert child.stdin is not None and child.stdout is not None  # noqa: S101 - spawned with pipes
        try:
            child.stdin.write(line)
            child.stdin.flush()
            return _parse(child.stdout.readline(MAX_LINE_BYTES), kind)
        except BrokenPipeError as e:
            raise _Died from e
        except _Died:
            raise
        except BaseException:
            self._kill()
            raise

    def _reap(self, died: _Died, attempt: int) -> None:
        """Clear away a dead worker; raise `ProcessDied` where it is not to be started again."""
        code = self._kill()
        if self._closed:
            raise ProcessDied("the replay worker was closed in the middle of a request") from died
        if attempt + 1 == ATTEMPTS:
            what = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise ProcessDied(
                f"the replay worker died {ATTEMPTS} times over one request, last with {what}",
                hint=f"see {self.log_path}; signal 9 without a word there often means too little memory",
            ) from died
        time.sleep(_PAUSE_S * attempt)

    def _end_idle(self) -> None:
        child = self._child
        if child is not None and child.stdin is not None:
            with contextlib.suppress(OSError):
                child.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_GRACE_S)
        self._kill()

    def _kill(self) -> int:
        child, self._child = self._child, None
        return processes.kill_tree(child) if child is not None else 0


class _Died(Exception):
    """The worker's pipe ended before it had answered."""


def _parse(line: bytes, kind: type[A]) -> A | Failure:
    if not line.endswith(b"\n"):
        raise _Died
    value = canonical.decode(line[:-1], what="answer of the replay worker", max_bytes=MAX_LINE_BYTES)
    if isinstance(value, dict) and value.get("format") == Failure.format_name():
        return Failure.from_json(value)
    return kind.from_json(value)
