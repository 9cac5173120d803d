"""Challenges, links and sessions: good once or for a time, for whom the ledger says, and bounded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tapestry.errors import AuthError, Busy, SignatureError
from tapestry.governance.state import Assembly, Governance
from tapestry.identity.keyring import KeyRing, make_certificate, make_revocation
from tapestry.identity.keys import KeyPair
from tapestry.identity.logins import make_login
from tapestry.web import session
from tapestry.web.session import Sessions
from tapestry.web.viewers import Viewer
from tests.governance import made

AT = "2026-05-01T12:00:00.000Z"
ORIGIN, CONSORTIUM = "http://127.0.0.1:8500", "c" * 64
ROOT, VOTE = KeyPair.generate(), KeyPair.generate()
NOW = 1000.0


def ring() -> KeyRing:
    certificate = make_certificate(
        ROOT,
        member="alpha",
        node=None,
        role="vote",
        public_key=VOTE.public_key,
        not_before="2026-01-01T00:00:00.000Z",
        expires="2026-06-01T00:00:00.000Z",
    )
    return KeyRing().admit("alpha", ROOT.public_key, sequence=1).certify(certificate, sequence=2, at=AT)


ASSEMBLY = Assembly(ring=ring())
MEMBERS: dict[str, Any] = {
    "a": {},
    "alpha": {"roles": ("member", "auditor")},
    "b": {"roles": ("steward",)},
    "c": {},
    "d": {},
}


def link(sessions: Sessions, now: float = NOW) -> str:
    return answer(sessions, sessions.challenge(ORIGIN, now), now)


def answer(sessions: Sessions, challenge: str, now: float = NOW, origin: str = ORIGIN) -> str:
    signed = make_login(VOTE, consortium=CONSORTIUM, origin=origin, challenge=challenge, member="alpha")
    return sessions.answer(signed, ASSEMBLY.ring, consortium=CONSORTIUM, origin=origin, at=AT, now=now)


def look(
    sessions: Sessions, cookie: str | None, assembly: Assembly = ASSEMBLY, at: str = AT, now: float = NOW
) -> Viewer | None:
    return sessions.viewer(cookie, assembly, at=at, now=now)


def whose(*args: Any, **more: Any) -> str | None:
    viewer = look(*args, **more)
    return viewer and viewer.member


def test_a_member_signs_in_and_out() -> None:
    sessions = Sessions()
    token = link(sessions)
    assert sessions.whose(token, NOW) == "alpha"
    cookie = sessions.enter(token, NOW)
    viewer = look(sessions, cookie)
    assert viewer is not None
    assert viewer == Viewer(member="alpha", roles=frozenset({"public", "member"}))
    assert viewer.sees("ledger", None) and viewer.has("member") and not viewer.has("steward")
    sessions.leave(cookie)
    assert look(sessions, cookie) is None


def test_a_link_is_good_once() -> None:
    sessions = Sessions()
    token = link(sessions)
    sessions.enter(token, NOW)
    with pytest.raises(AuthError):
        sessions.enter(token, NOW)
    with pytest.raises(AuthError):
        sessions.whose(token, NOW)


def test_a_link_is_good_for_its_time() -> None:
    sessions = Sessions()
    token = link(sessions)
    with pytest.raises(AuthError):
        sessions.enter(token, NOW + session.LINK_S)


def test_a_challenge_is_good_once_here_and_for_its_time() -> None:
    sessions = Sessions()
    challenge = sessions.challenge(ORIGIN, NOW)
    answer(sessions, challenge)
    with pytest.raises(AuthError, match="answered before"):
        answer(sessions, challenge)
    for other in (Sessions().challenge(ORIGIN, NOW), "A" * 56, "A" * 16, challenge[:-1] + "A"):
        with pytest.raises(AuthError, match="not given here"):
            answer(sessions, other)
    with pytest.raises(AuthError, match="too old"):
        answer(sessions, sessions.challenge(ORIGIN, NOW), now=NOW + session.CHALLENGE_S)


def test_a_challenge_of_one_name_of_the_dashboard_is_none_of_another() -> None:
    sessions = Sessions()
    with pytest.raises(AuthError, match="not given here"):
        answer(sessions, sessions.challenge("http://localhost:8500", NOW))
    with pytest.raises(SignatureError):
        signed = make_login(
            VOTE, consortium=CONSORTIUM, origin="http://evil", challenge="x" * 56, member="alpha"
        )
        sessions.answer(signed, ASSEMBLY.ring, consortium=CONSORTIUM, origin=ORIGIN, at=AT, now=NOW)


def test_a_session_ends_unused_and_in_the_end() -> None:
    sessions = Sessions()
    cookie = sessions.enter(link(sessions), NOW)
    assert look(sessions, cookie, now=NOW + session.IDLE_S + 1) is None
    cookie, now = sessions.enter(link(sessions), NOW), NOW
    while now < NOW + session.LONGEST_S - session.IDLE_S:
        now += session.IDLE_S
        assert whose(sessions, cookie, now=now) == "alpha"
    assert look(sessions, cookie, now=NOW + session.LONGEST_S + 1) is None
    assert not len(sessions)


def test_a_session_ends_with_its_key_and_its_membership() -> None:
    revoked = ASSEMBLY.ring.revoke(
        make_revocation(ROOT, member="alpha", revoked=VOTE.key_id, reason="rotated"), sequence=3
    )
    held = ASSEMBLY.ring.members["alpha"]
    expelled = ASSEMBLY.ring.model_copy(
        update={"members": {"alpha": held.model_copy(update={"expelled": 3})}}
    )
    for gone, at in (
        (replace(ASSEMBLY, ring=revoked), AT),
        (replace(ASSEMBLY, ring=expelled), AT),
        (Assembly(), AT),
        (ASSEMBLY, "2026-06-01T00:00:00.000Z"),
    ):
        sessions = Sessions()
        cookie = sessions.enter(link(sessions), NOW)
        assert whose(sessions, cookie) == "alpha"
        assert look(sessions, cookie, gone, at) is None
        assert look(sessions, cookie) is None  # it does not come back


def test_roles_are_those_of_the_charter_in_force() -> None:
    governance = Governance(charter=made.charter(members=MEMBERS))
    sessions = Sessions()
    cookie = sessions.enter(link(sessions), NOW)
    assert not look(sessions, cookie).has("auditor")
    viewer = look(sessions, cookie, replace(ASSEMBLY, governance=governance))
    assert viewer.has("auditor") and not viewer.has("steward")


def test_no_cookie_is_taken_that_was_not_given() -> None:
    sessions = Sessions()
    sessions.enter(link(sessions), NOW)
    for forged in (None, "", "x", "\ud800", "A" * 43, "A" * 10_000):
        assert look(sessions, forged) is None
    assert len(sessions) == 1


def test_a_member_has_few_sessions_links_and_answers() -> None:
    sessions = Sessions()
    first = sessions.enter(link(sessions), NOW)
    for _ in range(session.SESSIONS_EACH):
        last = sessions.enter(link(sessions), NOW)
    assert len(sessions) == session.SESSIONS_EACH
    assert look(sessions, first) is None and whose(sessions, last) == "alpha"
    tokens = [link(sessions) for _ in range(session.LINKS_EACH + 1)]
    with pytest.raises(AuthError):
        sessions.enter(tokens[0], NOW)
    sessions.enter(tokens[-1], NOW)
    with pytest.raises(Busy):
        for _ in range(session.ANSWERS_EACH):
            link(sessions)
    link(sessions, NOW + session.CHALLENGE_S)
