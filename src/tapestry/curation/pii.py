"""Personal data that has a form: addresses, and numbers whose check digits are right.

What it finds is counted by kind and, where asked, replaced by its kind. Names, places and dates have no form,
so they are not found. All patterns are bounded, so that no text makes the search slow.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

from tapestry.catalog.protected import UNSPACED, is_unspaced
from tapestry.curation import checksums, settings
from tapestry.curation.letters import DIGIT, Document
from tapestry.curation.step import Look, Step

# None begins with a look behind, which would keep `re` from skipping to where one can begin; what stands
# before a match is looked at afterwards. Letters of Han, kana or Thai may stand right behind one.
_WORD: Final = rf"[^\W{UNSPACED}]"
_MAILBOXES: Final = (
    re.compile(rf"(?:^|[^\w.+%-]|[{UNSPACED}])((?:{_WORD}|[.+%-]){{1,64}})$"),
    re.compile(r"(?:^|[^\w.+%-])([\w.+%-]{1,64})$"),
)
_HOST: Final = re.compile(
    r"@[\w-]{1,63}(?:\.[\w-]{1,63}){0,8}"
    rf"\.(?:[^\W\d_{UNSPACED}]{{2,24}}(?!{_WORD})|[{UNSPACED}]{{2,24}}(?!\w))"
)
_IPV4: Final = re.compile(rf"[0-9]{{1,3}}(?:\.[0-9]{{1,3}}){{3}}(?!\.?{_WORD})")
_IPV6: Final = re.compile(rf"[0-9A-Fa-f:][0-9A-Fa-f]{{0,4}}(?::[0-9A-Fa-f]{{0,4}}){{2,7}}(?!:|{_WORD})")
_IBAN: Final = re.compile(r"[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}")
_NUMBER: Final = re.compile(r"[0-9](?:[ \u00a0./()-]{0,2}[0-9]){7,18}" rf"(?!{_WORD})")
_LETTERED: Final = {
    "es-dni": (re.compile(r"[0-9]{8}-?[A-HJ-NP-TV-Z]" rf"(?!{_WORD})"), checksums.dni),
    "it-cf": (
        re.compile(r"[A-Z]{6}[0-9]{2}[A-EHLMPRST][0-9]{2}[A-Z][0-9]{3}[A-Z]" rf"(?!{_WORD})"),
        checksums.codice_fiscale,
    ),
    "cn-id": (re.compile(r"[1-9][0-9]{16}[0-9Xx](?![0-9A-Za-z])"), checksums.resident),
}
_CARD_GROUPS: Final = {(16,), (15,), (4, 4, 4, 4), (4, 6, 5)}
_CALLED: Final = re.compile(
    r"(?:tel|phone|fax|mobil\w*|handy|тел|телефон|電話|电话|फ़ोन|फोन|تلفن|điện thoại|đt|sđt)\W{0,3}$",
    re.IGNORECASE,
)
_MAILBOX_LETTERS: Final = 65
_BEFORE: Final = 16
"""Characters before a number that may say that it is one to call."""

Found = tuple[int, int, str]
"""From, to, kind."""


class Pii(Step):
    """Counts personal data, and replaces it where it is told to."""

    name = "pii"

    def __init__(self, given: settings.Pii) -> None:
        self._settings = given

    def look(self, document: Document) -> Look:
        found = list(find(document))
        if not found:
            return Look()
        counts = {**Counter(kind for _, _, kind in found), "documents": 1}
        if not self._settings.redact:
            return Look(why="personal-data", counts=counts)
        parts, at = [], 0
        for start, end, kind in found:
            parts += [document.text[at:start], f"[{kind}]"]
            at = end
        return Look(counts=counts, text="".join(parts) + document.text[at:])


def find(document: Document) -> Iterator[Found]:
    """In order, without overlaps; of two in one place the longer."""
    at = 0
    for start, end, kind in sorted(_all(document), key=lambda each: (each[0], -each[1])):
        if start >= at:
            yield start, end, kind
            at = end


def _all(document: Document) -> Iterator[Found]:
    text = document.text
    if "@" in text:
        yield from _emails(text)
    if text.count(":") >= 3:
        for match in _alone(_IPV6, text, ":."):
            if sum(map(bool, match[0].split(":"))) >= 3 and _is_ip(match[0]):
                yield *match.span(), "ip"
    digits = document.counts[DIGIT]
    if digits >= 4 and text.count(".") >= 3:
        yield from ((*match.span(), "ip") for match in _alone(_IPV4, text, ".") if _is_ip(match[0]))
    if digits < 7:
        return
    for match in _alone(_IBAN, text, ""):
        if end := _iban_end(match[0]):
            yield match.start(), match.start() + end, "iban"
    for kind, (pattern, right) in _LETTERED.items():
        for match in _alone(pattern, text, ""):
            if right(match[0].replace("-", "")):
                yield *match.span(), kind
    for match in _alone(_NUMBER, text, ".,/-"):
        start = match.start()
        while start and text[start - 1] in "+(":
            start -= 1
        if number := _kind(text[start : match.end()], text[max(0, start - _BEFORE) : start]):
            yield start, match.end(), number


def _emails(text: str) -> Iterator[Found]:
    for host in _HOST.finditer(text):
        first = max(0, host.start() - _MAILBOX_LETTERS)
        before = text[first : host.start()]
        if mailbox := _MAILBOXES[0].search(before) or _MAILBOXES[1].search(before):
            yield first + mailbox.start(1), host.end(), "email"


def _alone(pattern: re.Pattern[str], text: str, signs: str) -> Iterator[re.Match[str]]:
    """Matches that no letter, digit or one of some signs stands before. A letter of Han or kana may."""
    for match in pattern.finditer(text):
        before = text[match.start() - 1] if match.start() else " "
        if before in signs or ((before.isalnum() or before == "_") and not is_unspaced(before)):
            continue
        yield match


def _is_ip(text: str) -> bool:
    try:
        return not ipaddress.ip_address(text).is_unspecified
    except ValueError:
        return False


def _iban_end(text: str) -> int | None:
    """Where in a text that begins like one an IBAN ends."""
    length = checksums.iban_length(text.replace(" ", ""))
    if length is None:
        return None
    for end, letter in enumerate(text, 1):
        length -= letter != " "
        if not length:
            return end
    return None


def _kind(text: str, before: str) -> str | None:
    """Of a number, by its digits, how they are grouped, and what stands before it."""
    digits = re.sub("[^0-9]", "", text)
    groups = tuple(len(group) for group in re.findall("[0-9]+", text))
    if groups in _CARD_GROUPS and digits[0] in "23456" and checksums.luhn(digits):
        return "card"
    if len(digits) == 13 and digits.startswith("756") and checksums.ean13(digits):
        return "ch-ahv"
    if len(digits) == 15 and digits[0] in "12" and checksums.nir(digits):
        return "fr-nir"
    if groups == (4, 4, 4) and checksums.aadhaar(digits):
        return "in-aadhaar"
    if groups == (3, 3, 3, 2) and "-" in text and checksums.cpf(digits):
        return "br-cpf"
    called = text.startswith(("+", "(+", "00")) or _CALLED.search(before)
    return "phone" if called and 8 <= len(digits) <= 15 else None
