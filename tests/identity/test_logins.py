"""Answers to a dashboard's challenge: by a vote key, for this dashboard, and for nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.errors import FormatError, InputError, KeyRefused, SignatureError, TapestryError
from tapestry.identity.envelope import Envelope, sign
from tapestry.identity.keyring import KeyRing, Role, make_certificate
from tapestry.identity.keys import KeyPair
from tapestry.identity.logins import check_login, make_login, origin_of
from tapestry.protocol.messages import WebLogin

NOW = "2026-05-01T12:00:00.000Z"
ORIGIN, CONSORTIUM, CHALLENGE = "http://127.0.0.1:8500", "c" * 64, "x" * 56
ROOT, VOTE, NODE = (KeyPair.generate() for _ in range(3))


def ring() -> KeyRing:
    found = KeyRing().admit("alpha", ROOT.public_key, sequence=1)
    roles: tuple[tuple[KeyPair, Role, str | None], ...] = ((VOTE, "vote", None), (NODE, "node", "alpha-1"))
    for pair, role, node in roles:
        certificate = make_certificate(
            ROOT,
            member="alpha",
            node=node,
            role=role,
            public_key=pair.public_key,
            not_before="2026-01-01T00:00:00.000Z",
            expires="2027-01-01T00:00:00.000Z",
        )
        found = found.certify(certificate, sequence=2, at=NOW)
    return found


RING = ring()


def login(pair: KeyPair = VOTE, **other: str) -> Envelope:
    said = {"consortium": CONSORTIUM, "origin": ORIGIN, "challenge": CHALLENGE, "member": "alpha", **other}
    return make_login(pair, **said)


def check(envelope: Envelope) -> tuple[WebLogin, str]:
    said, signer = check_login(envelope, RING, consortium=CONSORTIUM, origin=ORIGIN, at=NOW)
    return said, signer.member


def test_a_members_answer_names_the_member() -> None:
    said, member = check(login())
    assert (said.challenge, member) == (CHALLENGE, "alpha")


@pytest.mark.parametrize(
    ("envelope", "error"),
    [
        (login(origin="http://127.0.0.1:8501"), SignatureError),
        (login(origin="https://127.0.0.1:8500"), SignatureError),
        (login(consortium="d" * 64), SignatureError),
        (login(member="beta"), KeyRefused),
        (login(NODE), KeyRefused),
        (login(ROOT), KeyRefused),
        (login(KeyPair.generate()), TapestryError),
    ],
)
def test_another_dashboard_consortium_member_or_key_is_refused(
    envelope: Envelope, error: type[TapestryError]
) -> None:
    with pytest.raises(error):
        check(envelope)


def test_what_was_signed_for_something_else_signs_nobody_in() -> None:
    said = WebLogin(consortium=CONSORTIUM, origin=ORIGIN, challenge=CHALLENGE, member="alpha")
    as_ballot = sign(said, VOTE).model_copy(update={"payloadType": "application/vnd.tapestry.ballot+json"})
    with pytest.raises(FormatError):
        check(as_ballot)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://127.0.0.1:8500/run?x=1#y", "http://127.0.0.1:8500"),
        ("HTTPS://Dash.Example:443/", "https://dash.example"),
        ("http://[::1]:8500", "http://[::1]:8500"),
        ("http://dash.example:80", "http://dash.example"),
    ],
)
def test_an_origin_is_what_a_browser_says(url: str, origin: str) -> None:
    assert origin_of(url) == origin
    login(origin=origin)


@pytest.mark.parametrize(
    "url", ["", "dash.example", "ftp://dash.example", "http://", "http://me@dash.example", "http://x:port"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InputError):
        origin_of(url)


@given(st.text(max_size=60))
def test_an_origin_is_one_or_is_refused(text: str) -> None:
    try:
        origin = origin_of("http://" + text)
    except InputError:
        return
    assert origin_of(origin) == origin
