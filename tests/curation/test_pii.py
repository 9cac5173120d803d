"""Personal data that has a form is counted; what only looks like it is not. Numbers are published ones."""

from __future__ import annotations

import time

import pytest

from tapestry.curation import checksums, settings
from tapestry.curation.letters import Document
from tapestry.curation.pii import Pii, find

FOUND = {
    "email": ["anna.b+c@mail.example.org", "Schreib an олена@пошта.укр!", "mailto:a@example.co.uk."],
    "ip": ["from 192.0.2.17,", "2001:db8::8a2e:370:7334"],
    "iban": ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432", "IBAN CH93 0076 2011 6238 5295 7 und"],
    "card": ["4111 1111 1111 1111", "5555555555554444", "3782 822463 10005"],
    "phone": ["+41 44 668 18 00", "Tel. 044 668 18 00", "電話:03-1234-5678", "0049 (0)30 901820"],
    "ch-ahv": ["756.9217.0769.85"],
    "fr-nir": ["2 55 08 14 168 025 38"],
    "es-dni": ["12345678Z"],
    "it-cf": ["RSSMRA85T10A562S"],
    "cn-id": ["身份證11010519491231002X。"],
    "br-cpf": ["111.444.777-35"],
    "in-aadhaar": ["2341 2341 2346"],
}
NOT_FOUND = [
    "a@b", "@home and at@", "1.2.3", "999.1.1.1", "12:30:45", "v1.2.3.4.5", "::", "std::v<a::b::c>",
    "DE89 3704 0044 0532 0130 01", "XX89 3704 0044 0532 0130 00", "4111 1111 1111 1112",
    "4000 5000 6000 7001",
    "756.9217.0769.86", "12345678A", "RSSMRA85T10A562T", "110105194912310021", "11010519491331002X",
    "111.444.777-36", "111.111.111-11", "2341 2341 2347", "1905, 1914 und 1918",
    "1 2 3 4 5 6 7 8 9 10 11 12 13",
    "1234567890123", "Art. 12345678", "2 55 08 14 168 025 39",
]  # fmt: skip


def kinds(text: str) -> list[str]:
    return [kind for _, _, kind in find(Document(text))]


@pytest.mark.parametrize("kind", FOUND)
def test_each_kind_is_found(kind: str) -> None:
    for text in FOUND[kind]:
        assert kinds(text) == [kind], text
        assert kinds(f"Vorher. {text} nachher") == [kind], text


UNSPACED = {
    "电话13812345678请联系我们": "13812345678",
    "写信到a.b@example.com我们会在三个工作日内尽快回复您的来信并且安排相关人员": "a.b@example.com",
    "写信到a.b@example.com联系": "a.b@example.com",
    "IPは192.0.2.17です": "192.0.2.17",
    "IPは2001:db8::8a2e:370:7334です": "2001:db8::8a2e:370:7334",
    "卡号4111 1111 1111 1111已过期": "4111 1111 1111 1111",
    "番号12345678Zです": "12345678Z",
    "用户@例子.中国": "用户@例子.中国",
}
"""Letters of scripts without blanks stand right before and behind."""


@pytest.mark.parametrize("text", UNSPACED)
def test_what_stands_between_letters_of_scripts_without_blanks_is_found_and_no_more(text: str) -> None:
    assert [text[start:end] for start, end, _ in find(Document(text))] == [UNSPACED[text]]


@pytest.mark.parametrize("text", NOT_FOUND)
def test_what_only_looks_like_it_is_not(text: str) -> None:
    assert kinds(text) == []


def test_the_check_digit_of_verhoeff_is_the_published_one() -> None:
    """236 has the check digit 3; every wrong last digit is noticed."""
    right = [digit for digit in "0123456789" if checksums.aadhaar("9" * 8 + "236" + digit)]
    assert len(right) == 1
    assert [d for d in "0123456789" if checksums._dihedral(0, int(d)) == 0] == ["0"]


def test_it_is_reported_or_replaced() -> None:
    text = "Frag a@example.org oder +41 44 668 18 00."
    told = Pii(settings.Pii()).look(Document(text))
    assert (told.why, told.text) == ("personal-data", None)
    assert told.counts == {"email": 1, "phone": 1, "documents": 1}
    replaced = Pii(settings.Pii(redact=True)).look(Document(text))
    assert (replaced.why, replaced.text) == (None, "Frag [email] oder [phone].")
    assert Pii(settings.Pii(redact=True)).look(Document("Nichts.")).text is None


@pytest.mark.parametrize(
    "text",
    [
        "a" * 300_000 + "@",
        "@" * 300_000,
        "a@" * 100_000,
        "1 " * 200_000,
        "1." * 200_000,
        "A1" * 200_000,
        "f:" * 200_000,
    ],
)
def test_no_text_makes_the_search_slow(text: str) -> None:
    started = time.process_time()
    list(find(Document(text)))
    assert time.process_time() - started < 5
