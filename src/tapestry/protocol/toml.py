"""TOML that people write: parsed within limits, and an error names the field with its line. No I/O."""

from __future__ import annotations

import re
import tomllib
from typing import Any, Final

from pydantic import ValidationError

from tapestry.errors import InputError

MAX_DEPTH: Final = 16
_LONG_KEY: Final = re.compile(r"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){64}""")
"""A key of so many parts; the time that reading one takes grows with the square of their number."""


def parse(
    data: bytes, *, what: str, max_bytes: int, error: type[InputError], hint: str | None = None
) -> tuple[dict[str, Any], str]:
    """The value and the text of TOML in UTF-8.

    Args:
        data: of the file.
        what: names the file in errors.
        max_bytes: that such a file may have.
        error: raised where it is not TOML.
        hint: of that error.
    """
    if len(data) > max_bytes:
        raise error(f"{what} has {len(data)} bytes; such a file has at most {max_bytes}", hint=hint)
    try:
        text = data.decode("utf-8")
        if _LONG_KEY.search(text):
            raise error(f"{what} has a key of more than 64 parts", hint=hint)
        value = tomllib.loads(text)
    except UnicodeDecodeError as e:
        raise error(f"{what} is not UTF-8 text", hint=hint) from e
    except (ValueError, RecursionError) as e:  # a number of thousands of digits is a plain ValueError
        raise error(f"{what} is not TOML: {str(e)[:200]}", hint=hint) from e
    _check_plain(value, what, error)
    return value, text


def read(
    data: bytes, *, what: str, format: str, version: int, max_bytes: int, error: type[InputError]
) -> tuple[dict[str, Any], str]:
    """The value and the text of a TOML file that states this format and version.

    Args:
        what: names the file in errors.
        error: raised where it is not such a file.
    """
    value, text = parse(data, what=what, max_bytes=max_bytes, error=error)
    for field, wanted in (("format", format), ("version", version)):
        if field not in value:
            raise error(
                f"{what} does not state its {field}",
                hint=f'begin the file with: format = "{format}" and version = {version}',
            )
        if type(value[field]) is not type(wanted) or value[field] != wanted:
            raise error(
                f"{what}: {field} {value[field]!r} is not supported (this release reads {wanted!r})",
                hint="the file may be for another release of Tapestry",
            )
    return value, text


def _check_plain(value: dict[str, Any], what: str, error: type[InputError]) -> None:
    """Refuse what TOML does not promise, or nobody writes, before anything is made of it: it could neither be
    walked nor shown."""
    waiting: list[tuple[Any, int]] = [(value, 0)]
    while waiting:
        each, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise error(f"{what}: tables and lists lie more than {MAX_DEPTH} deep in each other")
        if isinstance(each, int) and not -(1 << 63) <= each < 1 << 63:
            raise error(f"{what}: a whole number has 64 bits; one here has {each.bit_length()}")
        inside = each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
        waiting += [(one, depth + 1) for one in inside]


def line_of(text: str, where: list[str]) -> int | None:
    """The line that gives the field at `where` its value, or opens its table."""
    table: list[str] = []
    opened: dict[tuple[str, ...], int] = {}
    listed: dict[tuple[str, ...], int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*+(\[?)\[([A-Za-z0-9_.\s-]++)\]\]?\s*+(#.*)?$", line):
            table = [part.strip() for part in header[2].split(".")]
            if header[1]:  # one more in a list of tables
                listed[tuple(table)] = listed.get(tuple(table), -1) + 1
            for length in range(1, len(table) + 1):
                if (at := listed.get(tuple(table[:length]))) is not None:
                    table = [*table[:length], str(at), *table[length:]]
                    break
            opened.setdefault(tuple(table), number)
        elif key := re.match(r"\s*([A-Za-z0-9_.-]+)\s*=", line):
            opened.setdefault((*table, *key[1].split(".")), number)
    for length in range(len(where), 0, -1):
        if line_number := opened.get(tuple(where[:length])):
            return line_number
    return None


_WORDS: Final = {
    "extra_forbidden": "there is no such field",
    "missing": "is needed",
}


def faults(error: ValidationError) -> list[Any]:
    """All faults; fields that do not exist first, since a misspelt one also makes another missing."""
    return sorted(error.errors(include_url=False), key=lambda fault: fault["type"] != "extra_forbidden")


def describe(error: ValidationError, text: str, what: str) -> str:
    """The first fault in one sentence with the field's name and its line."""
    found = faults(error)
    first = found[0]
    where = [str(part) for part in first["loc"]]
    line = line_of(text, where)
    place = f"{what}, line {line}" if line else what
    name = f"{'.'.join(where)}: " if where else ""
    said = _WORDS.get(first["type"], first["msg"].removeprefix("Value error, "))
    given = first.get("input")
    if first["type"] not in _WORDS and isinstance(given, str | int | float):
        said += f", not {given!r}"
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"{place}: {name}{said[:1].lower()}{said[1:]}{more}"


def as_tuples(value: Any) -> Any:
    """TOML's lists as the tuples that messages have."""
    if isinstance(value, dict):
        return {key: as_tuples(each) for key, each in value.items()}
    return tuple(map(as_tuples, value)) if isinstance(value, list) else value
