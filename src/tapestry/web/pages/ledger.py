"""The ledger: entries in pages, one entry to the byte, and a proof that the reader's browser checks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from tapestry.errors import NotFound
from tapestry.identity.notes import Note
from tapestry.ledger.checkpoint import Checkpoint
from tapestry.ledger.entries import CONSORTIUM, Entry
from tapestry.transport import server
from tapestry.web import succession
from tapestry.web.book import Book
from tapestry.web.index import Index, Search
from tapestry.web.pages.route import Route
from tapestry.web.render import Ask, page

EACH_PAGE: Final = 50
LISTS: Final = ("kind", "member", "run")
"""What can be chosen from."""
MAX_SHOWN: Final = 200_000
"""Characters of an entry that are laid out a second time."""


@dataclass(frozen=True)
class Row:
    """An entry in a list."""

    sequence: int
    at: str
    kind: str
    member: str | None
    run: str | None
    round: int | None


@dataclass(frozen=True)
class Found:
    """A page of what a search has found."""

    rows: tuple[Row, ...] = ()
    count: int = 0
    pages: int = 1


async def show(request: Request) -> Response:
    ask = Ask(request)
    ask.must_see("ledger")
    book, index = await book_of(ask), ask.site.index
    if number := ask.number("entry", 0):
        return Response(None, 303, {"Location": ask.href(f"/ledger/{number}")})
    wanted = Search(
        kind=ask.word("kind") or None,
        member=ask.word("member") or None,
        run=ask.word("run") or None,
        round=ask.number("round", 0, most=1 << 40) or None,
    )
    found, at = Found(), ask.number("page", 1, least=1)
    lists: dict[str, list[str]] = {name: [] for name in LISTS}
    if book is not None:
        shared, made_of = ask.site.shared, (book.turn, index.size)
        found = await shared.of(("ledger", wanted, at), made_of, lambda: _found(book, index, wanted, at))
        lists = await shared.of("ledger", made_of, lambda: {name: index.values(name) for name in LISTS})
    checkpoint = Note.from_bytes(ask.known.checkpoint.encode()) if ask.known.checkpoint else None
    return page(
        ask,
        "ledger.html",
        rows=found.rows,
        count=found.count,
        at=min(at, found.pages),
        pages=found.pages,
        wanted=wanted,
        lists=lists,
        checkpoint=checkpoint and Checkpoint.parse(checkpoint.text),
        there=book is not None,
    )


def _found(book: Book, index: Index, wanted: Search, at: int) -> Found:
    found = index.found(wanted)
    count = len(found)
    pages = max(1, -(-count // EACH_PAGE))
    at = min(at, pages)
    numbers = found[max(0, count - at * EACH_PAGE) : count - (at - 1) * EACH_PAGE]
    return Found(tuple(row(index, entry_of(book, each)) for each in reversed(numbers)), count, pages)


async def one(request: Request) -> Response:
    ask = Ask(request)
    ask.must_see("ledger")
    book, sequence = await _asked(ask)
    size = _signed_size(ask)
    entry = entry_of(book, sequence)
    data = entry.to_bytes()
    there = sequence <= size
    steps = _steps(book, sequence, size) if there else []
    laid_out = json.dumps(json.loads(data), indent=2, ensure_ascii=False) if len(data) <= MAX_SHOWN else None
    return page(
        ask,
        "entry.html",
        row=row(ask.site.index, entry),
        sequence=sequence,
        raw=data.decode(),
        laid_out=laid_out,
        size=size,
        newest=book.size,
        steps=steps if there else None,
        successions=succession.numbers(ask.site.index, size),
        consortium=ask.known.hello.consortium if ask.known.hello else "",
    )


async def proof(request: Request) -> Response:
    """What a browser needs to check one entry by itself, as JSON."""
    ask = Ask(request)
    ask.must_see("ledger")
    book, sequence = await _asked(ask)
    size = _signed_size(ask)
    if sequence > size:
        raise NotFound("no checkpoint was signed yet that has this entry")
    changes = succession.numbers(ask.site.index, size)
    found = {
        "entry": _text(book, sequence),
        "sequence": sequence,
        "size": size,
        "proof": [each.hex() for each in book.inclusion(sequence, size)],
        "checkpoint": ask.known.checkpoint,
        "first": _text(book, 1),
        "successions": changes,
        "key": str(entry_of(book, changes[-1] if changes else 1).body["core_key"]),
    }
    return _json(ask, found)


async def successions(request: Request) -> Response:
    """How the core came to its key, as JSON: every change up to a size of the ledger, with who signed."""
    ask = Ask(request)
    ask.must_see("ledger")
    book = await book_of(ask)
    size = ask.number("size", 0, most=1 << 53)
    if book is None or not 1 <= size <= book.size:
        raise NotFound("the ledger has no such size")
    changes = succession.numbers(ask.site.index, size)
    assembly = ask.known.assembly
    found = await ask.site.shared.of(
        ("successions", size), (book.turn, *changes), lambda: succession.chain(book, assembly, changes, size)
    )
    return _json(ask, found)


async def consistency(request: Request) -> Response:
    """That the ledger begins with an earlier one, as JSON."""
    ask = Ask(request)
    ask.must_see("ledger")
    book = await book_of(ask)
    if book is None:
        raise NotFound("the ledger was not read yet")
    old, new = ask.number("old", 0, most=1 << 53), ask.number("new", 0, most=1 << 53)
    way = [each.hex() for each in book.consistency(old, new)]
    return _json(ask, {"old": old, "new": new, "proof": way})


async def book_of(ask: Ask) -> Book | None:
    """The ledger, as far as it was verified, and looked through; None where it was not read."""
    book = ask.site.book if ask.site.follower is not None else None
    if book is None or not book.size or not ask.known.size:
        return None
    index = ask.site.index
    if not index.has_all(book):
        made_of = (book.turn, book.size)  # one thread at a time, however many look while it grows
        await ask.site.shared.of("index", made_of, lambda: index.follow(book), fresh_s=1e-9)
    return book


def entry_of(book: Book, sequence: int) -> Entry:
    """Raises `NotFound`."""
    return book.read(sequence, 1)[0].entry


def row(index: Index, entry: Entry) -> Row:
    round_ = entry.body.get("round")
    return Row(
        sequence=entry.sequence,
        at=entry.at,
        kind=entry.type,
        member=index.member_of(entry),
        run=None if entry.scope == CONSORTIUM else entry.scope,
        round=round_ if type(round_) is int else None,
    )


async def _asked(ask: Ask) -> tuple[Book, int]:
    text = str(ask.request.path_params["entry"])
    book = await book_of(ask)
    if book is None or not (text.isascii() and text.isdigit() and len(text) <= 16):
        raise NotFound("the ledger has no such entry")
    return book, int(text)


def _signed_size(ask: Ask) -> int:
    """Entries under the newest checkpoint that was verified."""
    if not ask.known.checkpoint:
        return 0
    return Checkpoint.parse(Note.from_bytes(ask.known.checkpoint.encode()).text).size


def _steps(book: Book, sequence: int, size: int) -> list[dict[str, Any]]:
    """What each hash of a proof stands for, from the leaf up; the same as `path` of proof.js."""
    hashes = book.inclusion(sequence, size)
    steps: list[dict[str, Any]] = []
    start, stop = 0, size
    while stop - start > 1:
        middle = start + (1 << (stop - start - 1).bit_length() - 1)
        if sequence - 1 < middle:
            steps.append({"side": "right", "first": middle + 1, "last": stop})
            stop = middle
        else:
            steps.append({"side": "left", "first": start + 1, "last": middle})
            start = middle
    return [{**step, "hash": given.hex()} for step, given in zip(reversed(steps), hashes, strict=True)]


def _text(book: Book, sequence: int) -> str:
    return entry_of(book, sequence).to_bytes().decode()


def _json(ask: Ask, value: Any) -> Response:
    answer = server.answer(value)
    answer.headers["Cache-Control"] = "no-store" if ask.viewer.member is not None else "no-cache"
    answer.headers["Vary"] = "Cookie"
    return answer


ROUTES = (
    Route("/ledger", show),
    Route("/ledger/consistency", consistency),
    Route("/ledger/successions", successions),
    Route("/ledger/{entry}", one),
    Route("/ledger/{entry}/proof", proof),
)
