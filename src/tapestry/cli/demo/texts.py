"""Text for the demo's members: Python's own standard library, one field of it a member.

Fields differ as members do: network code, prose about the language, tables of alphabets. The text
is read from the interpreter that runs, never downloaded; the same interpreter gives the same bytes.
A field that this installation lacks (many systems pack the tests or Tk apart) is skipped.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from tapestry.errors import CorpusError, InputError

MIN_FIELD_BYTES: Final = 150_000
"""A field with less text than this is skipped."""
MAX_FIELD_BYTES: Final = 1_600_000
VALID_FRACTION: Final = 0.05
DOCUMENT_BYTES: Final = 4_000
"""Files are cut into documents of about this size at blank lines."""
MIN_DOCUMENT_BYTES: Final = 80


@dataclass(frozen=True, kw_only=True)
class Field:
    """What one member has: these modules and packages of the standard library."""

    name: str
    about: str
    parts: str
    """Files and folders below the standard library, in one string."""
    prose: bool = False
    """Take docstrings and topics instead of code."""


@dataclass(frozen=True, kw_only=True)
class Document:
    source: str
    text: str


FIELDS: Final = (
    Field(
        name="network",
        about="Internet protocols and mail",
        parts="asyncio email ftplib.py http imaplib.py ipaddress.py nntplib.py poplib.py smtpd.py "
        "smtplib.py socket.py socketserver.py ssl.py telnetlib.py urllib wsgiref xmlrpc",
    ),
    Field(
        name="formats",
        about="data formats",
        parts="aifc.py base64.py chunk.py configparser.py csv.py gzip.py html json mailbox.py pickle.py "
        "pickletools.py plistlib.py quopri.py sqlite3 struct.py sunau.py tarfile.py tomllib uu.py "
        "wave.py xdrlib.py xml zipfile zipfile.py",
    ),
    Field(
        name="manual",
        about="prose: docstrings and help topics",
        parts="pydoc_data _pydecimal.py _pyio.py argparse.py ast.py calendar.py collections "
        "configparser.py contextlib.py ctypes dataclasses.py difflib.py distutils doctest.py "
        "enum.py functools.py importlib inspect.py json logging multiprocessing os.py pathlib.py "
        "random.py re statistics.py string.py subprocess.py tempfile.py threading.py tkinter "
        "turtle.py typing.py unittest",
        prose=True,
    ),
    Field(
        name="numbers",
        about="arithmetic, statistics, dates",
        parts="_pydecimal.py _pydatetime.py _pylong.py _strptime.py bisect.py calendar.py colorsys.py "
        "datetime.py decimal.py fractions.py heapq.py numbers.py random.py statistics.py "
        "turtle.py zoneinfo",
    ),
    Field(
        name="language",
        about="tools that read programs",
        parts="ast.py bdb.py code.py codeop.py dis.py doctest.py importlib inspect.py keyword.py "
        "lib2to3 opcode.py pdb.py pkgutil.py pyclbr.py pydoc.py symtable.py tabnanny.py token.py "
        "tokenize.py trace.py traceback.py typing.py",
    ),
    Field(
        name="desktop",
        about="windows, menus, drawing",
        parts="curses idlelib tkinter turtledemo",
    ),
    Field(
        name="system",
        about="files, processes, threads",
        parts="concurrent glob.py genericpath.py logging multiprocessing ntpath.py os.py pathlib "
        "pathlib.py platform.py posixpath.py queue.py sched.py selectors.py shutil.py signal.py "
        "subprocess.py tempfile.py threading.py ctypes",
    ),
    Field(
        name="tests",
        about="tests of the interpreter",
        parts="test/test_grammar.py test/test_descr.py test/test_decimal.py test/test_re.py "
        "test/test_set.py test/test_list.py test/test_dict.py test/test_generators.py "
        "test/test_enum.py test/test_typing.py test/test_itertools.py test/test_dataclasses "
        "test/test_dataclasses.py",
    ),
    Field(
        name="alphabets",
        about="character tables of the world's encodings",
        parts="encodings stringprep.py",
    ),
)
"""In the order in which members get them."""


def standard_library() -> Path:
    """The folder of the running interpreter's standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def _files(root: Path, field: Field) -> Iterator[Path]:
    for part in sorted(field.parts.split()):
        path = root / part
        if path.is_file():
            yield path
        elif path.is_dir():
            inside = (p.relative_to(path) for p in path.rglob("*.py"))
            yield from (path / p for p in sorted(inside) if not {"test", "tests", "idle_test"} & set(p.parts))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError):
        return ""


def _prose(text: str) -> str:
    """Docstrings of a module, and string values of a table of topics."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return ""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring and len(docstring) >= MIN_DOCUMENT_BYTES:
                found.append(docstring)
        elif isinstance(node, ast.Dict):
            values = (v.value for v in node.values if isinstance(v, ast.Constant))
            found += [v.strip() for v in values if isinstance(v, str) and len(v) >= 4 * MIN_DOCUMENT_BYTES]
    return "\n\n".join(found)


def cut(source: str, text: str) -> Iterator[Document]:
    """Documents of about `DOCUMENT_BYTES`, cut where a line is empty."""
    piece: list[str] = []
    size = number = 0
    for line in [*text.split("\n"), None]:
        if line is not None:
            piece.append(line)
            size += len(line.encode()) + 1
        if line is None or (size >= DOCUMENT_BYTES and not line.strip()):
            body = "\n".join(piece).strip("\n") + "\n"
            if len(body.encode()) >= MIN_DOCUMENT_BYTES:
                yield Document(source=f"{source}#{number}", text=body)
                number += 1
            piece, size = [], 0


def documents(field: Field, *, root: Path | None = None) -> list[Document]:
    """All documents of a field, in the order of its files; empty where the field is absent."""
    root = root or standard_library()
    found: list[Document] = []
    for path in _files(root, field):
        text = _read(path)
        found += cut(path.relative_to(root).as_posix(), _prose(text) if field.prose else text)
    return found


def _rank(document: Document) -> str:
    return hashlib.sha256(document.source.encode()).hexdigest()


def split(found: list[Document], most_bytes: int = MAX_FIELD_BYTES) -> tuple[list[Document], list[Document]]:
    """Train and valid documents, `most_bytes` together: those that come first by the hash of their name are
    for valid.

    A document is never in both; the size of valid is `VALID_FRACTION` of what is taken.
    """
    ranked, total = [], 0
    for document in sorted(found, key=_rank):
        total += len(document.text.encode())
        ranked.append(document)
        if total >= most_bytes:
            break
    valid: list[Document] = []
    used = 0
    while ranked and used < total * VALID_FRACTION:
        document = ranked.pop(0)
        used += len(document.text.encode())
        valid.append(document)
    return ranked, valid


def _size(found: list[Document]) -> int:
    return sum(len(document.text.encode()) for document in found)


def fields(*, root: Path | None = None) -> Iterator[tuple[Field, list[Document]]]:
    """The fields this installation has, with their documents."""
    for field in FIELDS:
        found = documents(field, root=root)
        if _size(found) >= MIN_FIELD_BYTES:
            yield field, found


def choose(count: int, *, root: Path | None = None) -> list[tuple[Field, list[Document]]]:
    """The first `count` fields. Raises `InputError` when there are not so many."""
    found = list(islice(fields(root=root), count))
    if len(found) < count:
        raise InputError(
            f"the standard library of this Python has text for {len(found)} members, not for {count}",
            hint=(f"take --nodes {len(found)} or fewer, or " if found else "")
            + "give --corpora a folder with one sub-folder a member",
        )
    return found


def write(found: list[Document], path: Path) -> None:
    """JSON lines of `text` and `source`."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for document in found:
            line = {"text": document.text, "source": document.source}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


@dataclass(frozen=True, kw_only=True)
class MemberText:
    """A member of the demo and where its text lies."""

    name: str
    about: str
    folder: Path


def from_standard_library(count: int, out: Path, *, most_bytes: int = MAX_FIELD_BYTES) -> list[MemberText]:
    """Write train.jsonl and valid.jsonl for `count` members below `out`, of at most so many bytes each."""
    members = []
    for field, found in choose(count):
        folder = out / field.name
        folder.mkdir(parents=True, exist_ok=True)
        train, valid = split(found, most_bytes)
        write(train, folder / "train.jsonl")
        write(valid, folder / "valid.jsonl")
        members.append(MemberText(name=field.name, about=field.about, folder=folder))
    return members


def from_folder(count: int | None, corpora: Path) -> list[MemberText]:
    """One member per sub-folder with train.* and valid.*; the first `count` by name, or all.

    Raises:
        CorpusError: no such folder, or a sub-folder lacks one of the two.
        InputError: fewer sub-folders than `count`, or a name that is no member's name.
    """
    from tapestry.protocol.canonical import is_name

    if not corpora.is_dir():
        raise CorpusError(f"{corpora} is not a folder", hint="give a folder with one sub-folder a member")
    folders = sorted(p for p in corpora.iterdir() if p.is_dir() and any(p.glob("train.*")))
    if not folders or (count is not None and len(folders) < count):
        raise InputError(
            f"{corpora} has {len(folders)} sub-folders with train.*, {count or 1} are needed",
            hint="one sub-folder a member, each with train.* and valid.* (.txt, .jsonl, .parquet)",
        )
    members = []
    for folder in folders[:count]:
        if not any(folder.glob("valid.*")):
            raise CorpusError(
                f"{folder} has train.* but no valid.*", hint="put text that is never trained on there"
            )
        if not is_name(folder.name):
            raise InputError(
                f"{folder.name!r} cannot be a member's name",
                hint="name the sub-folder with a-z, 0-9, '.', '_' and '-'",
            )
        members.append(MemberText(name=folder.name, about="", folder=folder))
    return members
