"""`logs/core.log`: one JSON object a line. Names, numbers and errors; never data, never a secret."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import structlog

MAX_LOG_BYTES: Final = 16 << 20
"""A log larger than this is set aside as `core.log.1` at the next start."""


class CoreLog:
    """An open log."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
            path.replace(path.with_name(path.name + ".1"))
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._log = structlog.wrap_logger(
            structlog.PrintLogger(self._file),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
        self._handler = _Forward(self._log)

    def tell(self, event: str, fields: Mapping[str, Any]) -> None:
        """Something happened. A log that cannot be written stops nothing."""
        with contextlib.suppress(OSError, ValueError):
            self._log.info(event, **fields)

    def unexpected(self, error: BaseException, method: str, path: str) -> None:
        """A fault of ours, with its traceback."""
        with contextlib.suppress(OSError, ValueError):
            self._log.error("unexpected", method=method, path=path, exc_info=error)

    def take_over(self, *loggers: str) -> None:
        """Have what these loggers of the standard library say written here, and nowhere else."""
        for name in loggers:
            logger = logging.getLogger(name)
            logger.handlers = [self._handler]
            logger.propagate = False
            logger.setLevel(logging.WARNING)

    def close(self) -> None:
        self._file.close()


class _Forward(logging.Handler):
    def __init__(self, log: Any) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._log.warning(record.getMessage(), logger=record.name, exc_info=record.exc_info)
