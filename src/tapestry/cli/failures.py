"""How the command line ends badly: `error:` and `hint:` on stderr, and an exit code of `EXIT_CODES`."""

from __future__ import annotations

import datetime
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from tapestry.cli.output import note
from tapestry.errors import ResourceError, TapestryError, by_code

EXIT_CODES = {
    0: "done",
    1: "an exception nobody foresaw; the hint names the log with its traceback",
    2: "what was given is wrong: an argument, a file, settings, a plan; mend it and call again",
    3: "bytes are not what they claim to be: a hash, a signature's content, a merge that comes out otherwise",
    4: "who asks is not who may: a key that is expired, revoked or unknown",
    5: "not allowed or not there now: refused, already decided, no such run or round",
    6: "this machine cannot: no disk, port or store; or it is busy; or doctor found what must be mended",
    7: "the core cannot be reached, or misbehaves",
    8: "training cannot go on",
    9: "a process of ours ended unexpectedly; its log is named",
    130: "interrupted with Ctrl-C",
}
"""What every command may end with; those from 2 to 9 are `exit_code` in `tapestry.errors`."""

LAST_HINTS = {
    2: "call the command with --help to see what it takes",
    3: "do not go on with it: take it anew from where it came, and if it is so again, tell the other members",
    4: "see which keys hold: tapestry member key list HOME",
    5: "look how things stand, and call again: tapestry run status, tapestry node status",
    6: "see what mends it: tapestry doctor",
    7: "see whether the core can be reached: tapestry doctor --node HOME",
    8: "see logs/trainer.log in the node's folder",
    9: "see the folder logs in its home; the same command goes on from there",
}
"""By exit code: for an error whose hint nobody has written."""

OWNER_HINT = "call it as the user whose folder it is: sudo -u USER tapestry …"

EXTRAS = {
    "accelerate": "sovereign",
    "alembic": "core",
    "datasets": "sovereign",
    "fastapi": "core",
    "gguf": "sovereign",
    "httpx": "node",
    "jinja2": "web",
    "lm_eval": "harness",
    "matplotlib": "demo",
    "numpy": "arithmetic",
    "obstore": "core,node",
    "peft": "sovereign",
    "pg8000": "postgresql",
    "prometheus_client": "metrics",
    "py3langid": "curation",
    "pyarrow": "corpora",
    "rensa": "curation",
    "safetensors": "arithmetic",
    "sqlalchemy": "core",
    "starlette": "core",
    "structlog": "core,node",
    "submitit": "slurm",
    "tensorboard": "tensorboard",
    "tokenizers": "node",
    "torch": "arithmetic",
    "transformers": "node",
    "trl": "sovereign",
    "tuf": "release",
    "uvicorn": "core",
    "uvloop": "core",
    "yaml": "harness",
}
"""Optional module → the extra that brings it."""

JSON_VARIABLE = "TAPESTRY_JSON_ERRORS"
"""Set where a process of ours reads the log: a typed error is then its last line, as JSON, as well."""

SECRET_OPTIONS = ("--invitation",)
"""Whose value admits whoever has it."""

MAX_STDERR_TAIL_BYTES = 64 << 10


def print_error(message: str, hint: str | None) -> None:
    """`error: …` and, where there is one, `hint: …`, in colour on a terminal."""
    from rich.text import Text

    from tapestry.cli.output import messages

    console = messages()
    console.print(Text.assemble(("error:", "bold red"), " ", message), soft_wrap=True)
    if hint:
        console.print(Text.assemble(("hint:", "bold cyan"), " ", hint), soft_wrap=True)


def log_folder() -> Path:
    """Where tracebacks of unexpected exceptions go."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "tapestry"


def without_secrets(arguments: Sequence[str]) -> list[str]:
    """Arguments as they may be shown to whoever mends a fault."""
    found, hidden = [], False
    for each in arguments:
        name, equals, _ = each.partition("=")
        secret = name in SECRET_OPTIONS
        found.append("(secret)" if hidden else f"{name}=(secret)" if secret and equals else each)
        hidden = secret and not equals and not hidden
    return found


def write_traceback(error: BaseException) -> Path | None:
    """The traceback in a file of its own; None where no folder can be written."""
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S")
    text = f"argv: {without_secrets(sys.argv[1:])}\n" + "".join(traceback.format_exception(error))
    for folder in (log_folder(), Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"error-{stamp}-{os.getpid()}.log"
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.write(text)
        except (OSError, RuntimeError):
            continue
        return path
    return None


def explain_missing_module(error: ModuleNotFoundError) -> tuple[str, str] | None:
    """Message and hint for an optional dependency that is not installed."""
    module = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(module)
    if extra is None:
        return None
    return (
        f"this command needs the package {module}, which is not installed",
        f"install the extra that brings it: pip install 'tapestry[{extra}]'",
    )


def report(error: BaseException) -> int:
    """Print what went wrong and return the exit code."""
    if isinstance(error, TapestryError):
        print_error(error.message, error.hint or LAST_HINTS.get(error.exit_code))
        if os.environ.get(JSON_VARIABLE):
            print_json_error(error)
        return error.exit_code
    if isinstance(error, ModuleNotFoundError) and (missing := explain_missing_module(error)):
        print_error(*missing)
        return 2
    if isinstance(error, PermissionError) and error.filename is not None:
        print_error(f"{os.fsdecode(error.filename)}: permission denied", OWNER_HINT)
        return ResourceError.exit_code
    path = write_traceback(error)
    first_line = (str(error).splitlines() or [""])[0][:200]
    print_error(
        f"unexpected {type(error).__name__}" + (f": {first_line}" if first_line else ""),
        f"the traceback is in {path}; please report it" if path else "no log folder could be written",
    )
    return 1


def print_json_error(error: TapestryError) -> None:
    """The last line of a child's stderr, from which its parent rebuilds the error."""
    note(json.dumps({"error": {"code": error.code, "message": error.message, "hint": error.hint}}))


def from_stderr(path: Path, start: int = 0) -> TapestryError | None:
    """The typed error a child process left at the end of its log, if there is one.

    Only what was written from the offset `start` on is read. Two forms are understood: the JSON line of
    a supervised process, and the `error:` and `hint:` lines of this command line.
    """
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(start, file.tell() - MAX_STDERR_TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return None
    hint = None
    for line in reversed([line.strip() for line in lines[-40:]]):
        if line.startswith("hint: "):
            hint = line.removeprefix("hint: ")
        elif line.startswith("error: "):
            return TapestryError(line.removeprefix("error: "), hint=hint)
        elif line.startswith("{") and (found := _from_json(line)):
            return found
    return None


def _from_json(line: str) -> TapestryError | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    error = value.get("error") if isinstance(value, dict) else None
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return None
    hint = error.get("hint")
    return by_code(str(error.get("code")))(error["message"], hint=hint if isinstance(hint, str) else None)
