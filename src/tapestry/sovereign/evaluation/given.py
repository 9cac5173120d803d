"""Instructions and pairs to evaluate with: lines of JSON. What is wrong is named by file, line and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, ValidationError, model_validator

from tapestry.catalog.words import Language
from tapestry.errors import EvaluationError, TapestryError
from tapestry.host import files
from tapestry.protocol.message import Part
from tapestry.sovereign.checks import Check, Passage, plain_passage

MAX_FILE_BYTES: Final = 256 << 20
MAX_LINES: Final = 1_000_000
Text = Annotated[Passage, AfterValidator(plain_passage)]
T = TypeVar("T", bound=Part)
INSTRUCTION: Final = (
    'a line is, say: {"prompt": "Name three rivers.", "language": "en", "check": {"form": "list"}}; '
    "see docs/formats/evaluation.md"
)
PAIR: Final = 'a line is: {"prompt": "…", "chosen": "…", "rejected": "…"}'


class Instruction(Part):
    """A prompt, and what an answer has to keep to."""

    prompt: Text
    language: Language = "und"
    """That the figure is shown under."""
    check: Check


class Pair(Part):
    """Two answers, of which one is to be the likelier."""

    prompt: Text
    chosen: Text
    rejected: Text
    language: Language = "und"

    @model_validator(mode="after")
    def _differ(self) -> Pair:
        if self.chosen == self.rejected:
            raise ValueError("chosen and rejected are the same answer")
        return self


class Prompt(Part):
    """One to ask."""

    prompt: Text


def prompts(path: Path) -> list[Prompt]:
    """Raises `EvaluationError`."""
    return _lines(path, Prompt, 'a line is: {"prompt": "…"}')


def instructions(path: Path) -> list[Instruction]:
    """Raises `EvaluationError`."""
    return _lines(path, Instruction, INSTRUCTION)


def pairs(path: Path) -> list[Pair]:
    """Raises `EvaluationError`."""
    return _lines(path, Pair, PAIR)


def content(path: Path, hint: str) -> bytes:
    """A file to evaluate with. Raises `EvaluationError`."""
    try:
        return files.read_limited(path, MAX_FILE_BYTES)
    except FileNotFoundError as e:
        raise EvaluationError(f"{path} does not exist", hint=hint) from e
    except (OSError, TapestryError) as e:
        raise EvaluationError(f"{path} cannot be read: {e}", hint=hint) from e


def parse_lines(data: bytes, where: str, kind: type[T], hint: str) -> list[T]:
    """What lines of JSON say. Raises `EvaluationError`."""
    found: list[T] = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        if len(found) >= MAX_LINES:
            raise EvaluationError(f"{where} has more than {MAX_LINES} lines", hint="give fewer")
        try:
            found.append(kind.model_validate(frozen(json.loads(line.decode("utf-8-sig")))))
        except ValidationError as e:
            raise EvaluationError(f"{where}, line {number}: {said(e)}", hint=hint) from e
        except UnicodeDecodeError as e:
            raise EvaluationError(
                f"{where}, line {number}: not UTF-8", hint="convert the file to UTF-8"
            ) from e
        except (ValueError, RecursionError) as e:
            raise EvaluationError(f"{where}, line {number}: not JSON", hint=hint) from e
    if not found:
        raise EvaluationError(f"{where} is empty", hint=hint)
    return found


def said(error: ValidationError) -> str:
    """The first fault, with the field's name; one that does not exist comes first."""
    every = error.errors(include_url=False, include_input=False)
    first = min(every, key=lambda fault: fault["type"] != "extra_forbidden")
    name = ".".join(str(part) for part in first["loc"])
    text = {"extra_forbidden": "there is no such field", "missing": "is needed"}.get(
        first["type"], first["msg"]
    )
    text = text.removeprefix("Value error, ")
    more = f" (and {len(every) - 1} more)" if len(every) > 1 else ""
    return f"{name + ': ' if name else ''}{text[:1].lower()}{text[1:]}{more}"


def _lines(path: Path, kind: type[T], hint: str) -> list[T]:
    return parse_lines(content(path, hint), str(path), kind, hint)


def frozen(value: Any) -> Any:
    """JSON's lists as the tuples that closed values have."""
    if isinstance(value, dict):
        return {key: frozen(each) for key, each in value.items()}
    return tuple(map(frozen, value)) if isinstance(value, list) else value
