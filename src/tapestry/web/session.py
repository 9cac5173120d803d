"""Who is looking: challenges, one-time links and sessions, all in memory and all bounded.

    challenge ── signed by the member's vote key, on the member's machine ──> link, good once
    link ── opened in a browser, and confirmed there ──> session, named by a cookie

A session knows a member and the key it came in with, no rights: what the member may see is asked of the
ledger each time, and a key that is revoked, or a member that is expelled, ends its sessions with the next
request. Of links and cookies only hashes are kept. The clock is passed in.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import struct
from collections import OrderedDict
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

from tapestry.errors import AuthError, Busy, TapestryError
from tapestry.governance.state import Assembly, standing
from tapestry.identity.envelope import Envelope
from tapestry.identity.keyring import KeyRing
from tapestry.identity.logins import check_login
from tapestry.protocol.clock import parse_time
from tapestry.web.viewers import Role, Viewer

CHALLENGE_S: Final = 120.0
LINK_S: Final = 120.0
IDLE_S: Final = 3600.0
"""A session that nobody uses ends after so long."""
LONGEST_S: Final = 12 * 3600.0
"""And any after so long."""
SESSIONS_EACH: Final = 8
"""Of one member; the one used longest ago ends for a new one."""
LINKS_EACH: Final = 4
MAX_SESSIONS: Final = 2048
ANSWERS_EACH: Final = 32
"""Challenges that one member may answer while the first of them is still good."""
_RANDOM: Final = 18
_TAG: Final = 16
_AGAIN: Final = "sign in again: tapestry web login URL --member FOLDER"


@dataclass(slots=True)
class _Session:
    member: str
    key_id: str
    began: float
    used: float


@dataclass(slots=True)
class _Link:
    member: str
    key_id: str
    until: float


@dataclass(slots=True)
class Sessions:
    """Of one dashboard. Safe to use from several threads.

    A challenge is not kept: it says until when it is good, under a tag that only this process can make. What
    is kept is kept for members alone, so that nobody else can fill any of it.
    """

    _secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    _answered: dict[bytes, tuple[float, str]] = field(default_factory=dict)
    """Challenges that were answered, until they would have ended, and by whom."""
    _links: OrderedDict[bytes, _Link] = field(default_factory=OrderedDict)
    _sessions: OrderedDict[bytes, _Session] = field(default_factory=OrderedDict)
    """By the hash of the cookie, the one used longest ago first."""
    _lock: Lock = field(default_factory=Lock)

    # -- in ------------------------------------------------------------------------------------

    def challenge(self, origin: str, now: float) -> str:
        """For whoever asks."""
        told = secrets.token_bytes(_RANDOM) + struct.pack(">Q", int((now + CHALLENGE_S) * 1000))
        return base64.urlsafe_b64encode(told + self._tag(told, origin)).decode("ascii")

    def answer(
        self, envelope: Envelope, ring: KeyRing, *, consortium: str, origin: str, at: str, now: float
    ) -> str:
        """The token of a link that signs in once, for a signed challenge.

        Args:
            envelope: a `WebLogin`.
            ring: keys valid now.
            consortium, origin: this dashboard's.
            at: the core's time.
            now: this machine's, in seconds.

        Raises:
            AuthError: a challenge that was not given here, is over, or was answered before.
            Busy: this member signs in far too often.
            SignatureError, FormatError, UnknownMember, KeyRefused: as `identity.logins.check_login`.
        """
        said, signer = check_login(envelope, ring, consortium=consortium, origin=origin, at=at)
        told = self._given(said.challenge, origin, now)
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._forget(now)
            if told in self._answered:
                raise AuthError("this challenge was answered before", hint=_AGAIN)
            if sum(member == signer.member for _, member in self._answered.values()) >= ANSWERS_EACH:
                raise Busy(
                    f"{signer.member} has signed in {ANSWERS_EACH} times just now", hint="wait a little"
                )
            self._answered[told] = (now + CHALLENGE_S, signer.member)
            own = [name for name, link in self._links.items() if link.member == signer.member]
            for name in own[: max(0, len(own) + 1 - LINKS_EACH)]:
                del self._links[name]
            self._links[_hash(token)] = _Link(signer.member, signer.key_id, now + LINK_S)
        return token

    def whose(self, token: str, now: float) -> str:
        """The member a link would sign in; the link stays good. Raises `AuthError`."""
        with self._lock:
            link = self._links.get(_hash(token))
        if link is None or link.until <= now:
            raise AuthError("this link was used, or is too old", hint=_AGAIN)
        return link.member

    def enter(self, token: str, now: float) -> str:
        """The cookie of a new session; the link is used up. Raises `AuthError`."""
        with self._lock:
            link = self._links.pop(_hash(token), None)
            if link is None or link.until <= now:
                raise AuthError("this link was used, or is too old", hint=_AGAIN)
            self._forget(now)
            own = [name for name, each in self._sessions.items() if each.member == link.member]
            for name in own[: max(0, len(own) + 1 - SESSIONS_EACH)]:
                del self._sessions[name]
            while len(self._sessions) >= MAX_SESSIONS:
                self._sessions.popitem(last=False)
            cookie = secrets.token_urlsafe(32)
            self._sessions[_hash(cookie)] = _Session(link.member, link.key_id, now, now)
        return cookie

    # -- within ----------------------------------------------------------------------------------

    def viewer(self, cookie: str | None, assembly: Assembly, *, at: str, now: float) -> Viewer | None:
        """Who looks, by the ledger as it is now; None where the cookie is none of ours.

        Args:
            cookie: as received.
            assembly: members, keys and what they have decided.
            at: the core's time.
            now: this machine's, in seconds.
        """
        if not cookie:
            return None
        name = _hash(cookie)
        with self._lock:
            found = self._sessions.get(name)
            if found is None:
                return None
            if _over(found, now) or not key_holds(assembly.ring, found.member, found.key_id, at):
                del self._sessions[name]
                return None
            found.used = now
            self._sessions.move_to_end(name)
        return viewer_of(assembly, found.member)

    def leave(self, cookie: str | None) -> None:
        """End a session."""
        with self._lock:
            self._sessions.pop(_hash(cookie or ""), None)

    def __len__(self) -> int:
        return len(self._sessions)

    # -- what is kept ------------------------------------------------------------------------------

    def _tag(self, told: bytes, origin: str) -> bytes:
        return hmac.digest(self._secret, origin.encode() + b"\n" + told, "sha256")[:_TAG]

    def _given(self, challenge: str, origin: str, now: float) -> bytes:
        try:
            data = base64.b64decode(challenge, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            data = b""
        told, tag = data[: _RANDOM + 8], data[_RANDOM + 8 :]
        if len(told) != _RANDOM + 8 or not hmac.compare_digest(tag, self._tag(told, origin)):
            raise AuthError("this challenge was not given here", hint=_AGAIN)
        (until_ms,) = struct.unpack(">Q", told[_RANDOM:])
        if until_ms <= now * 1000:
            raise AuthError("this challenge is too old", hint=_AGAIN)
        return told

    def _forget(self, now: float) -> None:
        """What is over."""
        self._answered = {told: each for told, each in self._answered.items() if each[0] > now}
        for name in [name for name, link in self._links.items() if link.until <= now]:
            del self._links[name]
        for name in [name for name, each in self._sessions.items() if _over(each, now)]:
            del self._sessions[name]


def viewer_of(assembly: Assembly, member: str) -> Viewer:
    """A member as the ledger has it now. One that is suspended has no vote, and sees what members see."""
    charter = assembly.governance.charter
    roles: tuple[Role, ...] = () if charter is None else standing(charter, member, False).roles
    return Viewer(roles=frozenset(("public", "member", *roles)), member=member)


def key_holds(ring: KeyRing, member: str, key_id: str, at: str) -> bool:
    """Whether a key still speaks for its member: not revoked, not expired, the member not expelled."""
    held = ring.keys.get(key_id)
    if held is None or held.revoked is not None or member not in ring.active:
        return False
    certificate = held.certificate
    try:
        return certificate.member == member and parse_time(at) < parse_time(certificate.expires)
    except TapestryError:
        return False


def _over(session: _Session, now: float) -> bool:
    return now - session.used > IDLE_S or now - session.began > LONGEST_S


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
