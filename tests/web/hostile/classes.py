# ruff: noqa: E501 - tables
"""The classes. Each try says what it did, or None where it did nothing."""

from __future__ import annotations

import base64
import json
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import httpx

from tapestry.governance.state import Assembly
from tapestry.identity.envelope import Envelope, sign_bytes
from tapestry.identity.keyring import make_revocation
from tapestry.identity.keys import KeyPair
from tapestry.identity.logins import make_login
from tapestry.protocol.messages import WebLogin
from tapestry.web import session
from tests.web.hostile.scene import PATIENCE_S, SECRET, STREAMS, Scene
from tests.web.world import SCRIPT

Try = Callable[[Scene, random.Random], str | None]
MARKUP: Final = "<img src=x onerror"
PLAINLY = False
"""For the control of `framing`."""


@dataclass(frozen=True)
class Class:
    """A way to be hostile, and the check that it meets."""

    name: str
    check: str
    what: str
    attempt: Try


CLASSES: Final[list[Class]] = []


def add(check: str, name: str, what: str, attempt: Try) -> None:
    CLASSES.append(Class(name, check, what, attempt))


# -- posts from elsewhere --------------------------------------------------------------------------


def _leave(headers: Callable[[Scene], list[tuple[str, str]]]) -> Try:
    def attempt(scene: Scene, _rng: random.Random) -> str | None:
        given = [*headers(scene), ("Cookie", f"{scene.cookie_name}={scene.bob}")]
        scene.client.request("POST", "/en/leave", headers=given)
        return None if scene.signed_in() else "signed bob out"

    return attempt


def _swapped(scene: Scene, part: str, other: str) -> str:
    return scene.url.replace(part, other)


for _name, _what, _headers in (
    ("no-origin", "a post that says of no page where it comes from", lambda s: []),
    ("null-origin", "a post from a sandboxed frame", lambda s: [("Origin", "null")]),
    ("foreign-origin", "a form on another site", lambda s: [("Origin", "https://evil.example")]),
    ("suffix-origin", "a site whose name begins like ours", lambda s: [("Origin", s.url + ".evil.example")]),
    ("prefix-origin", "a site whose name ends like ours", lambda s: [("Origin", f"https://evil-{s.host}")]),
    ("other-port", "a page of another server on this machine", lambda s: [("Origin", "http://127.0.0.1:1")]),
    ("other-scheme", "our name over another scheme", lambda s: [("Origin", _swapped(s, "http:", "https:"))]),
    (
        "other-name",
        "another name of this machine",
        lambda s: [("Origin", _swapped(s, "127.0.0.1", "localhost"))],
    ),
    ("path-origin", "an origin with a path", lambda s: [("Origin", s.url + "/")]),
    (
        "two-origins",
        "two Origin headers, one of them ours",
        lambda s: [("Origin", s.url), ("Origin", "null")],
    ),
    (
        "listed-origin",
        "one header with two origins",
        lambda s: [("Origin", f"{s.url}, https://evil.example")],
    ),
    (
        "cross-site",
        "our Origin, but the browser says cross-site",
        lambda s: [("Origin", s.url), ("Sec-Fetch-Site", "cross-site")],
    ),
    (
        "same-site",
        "our Origin, but the browser says another host of the same site",
        lambda s: [("Origin", s.url), ("Sec-Fetch-Site", "same-site")],
    ),
    ("referer-only", "a Referer in the place of an Origin", lambda s: [("Referer", s.url + "/en/")]),
):
    add("origin", _name, _what, _leave(_headers))


def _login_csrf(scene: Scene, _rng: random.Random) -> str | None:
    """A victim's browser is made to open a session of the attacker's."""
    answer = scene.post(f"/en/login/{_token(scene, 'dan')}", headers={"Origin": "https://evil.example"})
    return "signed a browser in as somebody else" if "set-cookie" in answer.headers else None


add("origin", "login-csrf", "a foreign page sends a browser through the attacker's own link", _login_csrf)


# -- names of this server --------------------------------------------------------------------------


def _host(value: Callable[[Scene], str], target: Callable[[Scene], str] = lambda _: "/en/") -> Try:
    def attempt(scene: Scene, _rng: random.Random) -> str | None:
        data = f"GET {target(scene)} HTTP/1.1\r\nHost: {value(scene)}\r\nConnection: close\r\n\r\n"
        found = scene.raw(data.encode())
        return "was shown a page under a foreign name" if b" 200 " in found[:20] else None

    return attempt


for _name, _what, _value in (
    ("rebinding", "a foreign name that leads to this address", lambda s: "evil.example"),
    ("rebinding-port", "the same, with our port", lambda s: "evil.example:" + s.host.rpartition(":")[2]),
    ("host-prefix", "a name that begins like ours", lambda s: f"127.0.0.1.evil.example:{s.host[-5:]}"),
    ("host-userinfo", "our name before an @", lambda s: "127.0.0.1@evil.example"),
    ("host-empty", "no name", lambda s: ""),
    ("host-list", "two names in one header", lambda s: f"evil.example, {s.host}"),
):
    add("host", _name, _what, _host(_value))
add(
    "host",
    "forwarded-host",
    "a foreign name, and ours in X-Forwarded-Host",
    _host(lambda s: f"evil.example\r\nX-Forwarded-Host: {s.host}"),
)


# -- sessions --------------------------------------------------------------------------------------


def _desk(scene: Scene, cookie: str | None = None, **more: Any) -> str | None:
    answer = scene.get("/en/desk", cookie, **more)
    return "saw a member's desk" if answer.status_code == 200 else None


def _forged(make: Callable[[Scene, random.Random], str]) -> Try:
    return lambda scene, rng: _desk(scene, make(scene, rng))


def _turned(scene: Scene, rng: random.Random) -> str:
    at = rng.randrange(len(scene.bob))
    return scene.bob[:at] + ("A" if scene.bob[at] != "A" else "B") + scene.bob[at + 1 :]


for _name, _what, _make in (
    ("random-cookie", "a made-up session", lambda s, r: base64.urlsafe_b64encode(r.randbytes(32)).decode()),
    ("empty-cookie", "an empty one", lambda s, r: ""),
    ("name-cookie", "a member's name", lambda s, r: "bob"),
    ("claims-cookie", "a session that says who it is", lambda s, r: _claims()),
    ("hash-cookie", "the hash that is kept of a real one", lambda s, r: session._hash(s.bob).hex()),
    ("cut-cookie", "the first half of a real one", lambda s, r: s.bob[: r.randrange(1, 43)]),
    ("turned-cookie", "a real one with one letter changed", _turned),
    ("case-cookie", "a real one in capitals", lambda s, r: s.bob.upper()),
    ("long-cookie", "one of many letters", lambda s, r: "A" * r.randrange(1000, 6000)),
    ("key-cookie", "the name of bob's vote key", lambda s, r: s.board.world.nodes["bob"].vote.key_id),
):
    add("cookie", _name, _what, _forged(_make))


def _claims() -> str:
    return base64.urlsafe_b64encode(json.dumps({"member": "bob", "role": "auditor"}).encode()).decode()


add(
    "cookie",
    "foreign-cookie",
    "a real session under the name of another port's cookie",
    lambda s, r: _desk(s, headers={"Cookie": f"tapestry-1={s.bob}"}),
)
add(
    "cookie",
    "authorization",
    "a real session in the place of a password",
    lambda s, r: _desk(s, headers={"Authorization": f"Bearer {s.bob}"}),
)
add(
    "cookie",
    "query-session",
    "a real session in the address",
    lambda s, r: _desk(s, params={s.cookie_name: s.bob, "session": s.bob}),
)
add(
    "cookie",
    "claimed-member",
    "headers that say who asks",
    lambda s, r: _desk(s, headers={"X-Member": "bob", "X-Remote-User": "bob", "X-Role": "auditor"}),
)


def _aged(by_s: float, *, used: bool) -> Try:
    def attempt(scene: Scene, _rng: random.Random) -> str | None:
        (held,) = scene.board.site.sessions._sessions.values()
        held.began -= by_s
        held.used = held.used - by_s if not used else held.used
        return _desk(scene, scene.bob)

    return attempt


add("expiry", "idle-session", "a session nobody used for an hour", _aged(session.IDLE_S + 1, used=False))
add("expiry", "old-session", "a session that is always in use, after a day", _aged(86_400, used=True))


def _left(scene: Scene, _rng: random.Random) -> str | None:
    scene.post("/en/leave", scene.bob)
    return _desk(scene, scene.bob)


add("leaving", "ended-session", "the cookie of a session that was signed out", _left)


def _with_assembly(scene: Scene, change: Callable[[Assembly], Assembly]) -> str | None:
    follower = scene.board.follower
    before = follower.known
    follower.known = replace(before, assembly=change(before.assembly))
    try:
        return _desk(scene, scene.bob)
    finally:
        follower.known = before


def _revoked(scene: Scene, _rng: random.Random) -> str | None:
    bob = scene.board.world.nodes["bob"]
    ended = make_revocation(bob.root, member="bob", revoked=bob.vote.key_id, reason="compromised")
    return _with_assembly(
        scene, lambda a: replace(a, ring=a.ring.revoke(ended, sequence=scene.board.known.size))
    )


def _expelled(scene: Scene, _rng: random.Random) -> str | None:
    def change(assembly: Assembly) -> Assembly:
        ring = assembly.ring
        gone = ring.members["bob"].model_copy(update={"expelled": scene.board.known.size})
        return replace(assembly, ring=ring.model_copy(update={"members": {**ring.members, "bob": gone}}))

    return _with_assembly(scene, change)


add("key", "revoked-key", "a session that came in with a key which was revoked since", _revoked)
add("key", "expelled", "a session of a member that was expelled since", _expelled)


# -- signing in ------------------------------------------------------------------------------------


def _given(scene: Scene) -> str:
    return str(scene.post("/login/challenge").json()["challenge"])


def _answer(scene: Scene, envelope: Envelope) -> httpx.Response:
    return scene.post("/login/answer", content=envelope.to_bytes())


def _signed(scene: Scene, member: str = "bob", pair: KeyPair | None = None, **other: str) -> Envelope:
    said = {"consortium": scene.board.world.consortium, "origin": scene.url, "member": member} | other
    said.setdefault("challenge", _given(scene))
    return make_login(pair or scene.board.world.nodes[member].vote, **said)


def _token(scene: Scene, member: str = "bob") -> str:
    return str(_answer(scene, _signed(scene, member)).json()["token"])


def _in(answer: httpx.Response) -> str | None:
    return "was given a link" if answer.status_code == 200 else None


def _replayed(scene: Scene, _rng: random.Random) -> str | None:
    signed = _signed(scene)
    assert _in(_answer(scene, signed))
    return _in(_answer(scene, signed))


def _late(scene: Scene, _rng: random.Random) -> str | None:
    told = scene.board.site.sessions.challenge(scene.url, time.time() - session.CHALLENGE_S - 1)
    return _in(_answer(scene, _signed(scene, challenge=told)))


def _prolonged(scene: Scene, rng: random.Random) -> str | None:
    """A later end is written into a challenge."""
    data = bytearray(base64.urlsafe_b64decode(_given(scene)))
    data[session._RANDOM + rng.randrange(2, 6)] ^= 1
    return _in(_answer(scene, _signed(scene, challenge=base64.urlsafe_b64encode(data).decode())))


def _made_up(scene: Scene, rng: random.Random) -> str | None:
    told = base64.urlsafe_b64encode(rng.randbytes(42)).decode()
    return _in(_answer(scene, _signed(scene, challenge=told)))


add("challenge", "replayed-answer", "an answer that was overheard, sent again", _replayed)
add("challenge", "late-answer", "an answer to a challenge that is over", _late)
add("challenge", "prolonged-challenge", "a challenge whose end was changed", _prolonged)
add("challenge", "made-up-challenge", "a challenge that nobody gave", _made_up)
add(
    "challenge",
    "foreign-challenge",
    "a challenge of another dashboard",
    lambda s, r: _in(_answer(s, _signed(s, challenge=session.Sessions().challenge(s.url, time.time())))),
)


def _as_type(scene: Scene, kind: str) -> Envelope:
    said = WebLogin(
        consortium=scene.board.world.consortium, origin=scene.url, challenge=_given(scene), member="bob"
    )
    return sign_bytes(kind, said.to_bytes(), scene.board.world.nodes["bob"].vote)


def _altered(scene: Scene, _rng: random.Random) -> str | None:
    """Dan's answer, with bob's name written over."""
    signed = _signed(scene, "dan")
    payload = base64.b64encode(base64.b64decode(signed.payload).replace(b'"dan"', b'"bob"')).decode()
    return _in(_answer(scene, signed.model_copy(update={"payload": payload})))


for _name, _what, _make_envelope in (
    (
        "phished",
        "what was signed for a false dashboard, passed on",
        lambda s: _signed(s, origin="https://evil.example"),
    ),
    ("other-consortium", "a sign-in for another consortium", lambda s: _signed(s, consortium="d" * 64)),
    (
        "node-key",
        "a node's key, which lies on a machine",
        lambda s: _signed(s, pair=s.board.world.nodes["bob"].key),
    ),
    ("witness-key", "a witness key", lambda s: _signed(s, pair=s.board.world.nodes["bob"].witness)),
    ("root-key", "a member's root key", lambda s: _signed(s, pair=s.board.world.nodes["bob"].root)),
    ("stranger-key", "a key of nobody", lambda s: _signed(s, pair=KeyPair.generate())),
    ("other-member", "dan's key in bob's name", lambda s: _signed(s, pair=s.board.world.nodes["dan"].vote)),
    (
        "other-type",
        "a signature over something else",
        lambda s: _as_type(s, "application/vnd.tapestry.ballot+json"),
    ),
):
    add("login", _name, _what, lambda s, r, make=_make_envelope: _in(_answer(s, make(s))))
add("login", "altered-answer", "an answer with another name written into it", _altered)


def _opened(scene: Scene, token: str) -> str | None:
    return "opened a session" if "set-cookie" in scene.post(f"/en/login/{token}").headers else None


def _twice(scene: Scene, _rng: random.Random) -> str | None:
    token = _token(scene)
    assert _opened(scene, token)
    return _opened(scene, token)


def _stale(scene: Scene, _rng: random.Random) -> str | None:
    token = _token(scene)
    for held in scene.board.site.sessions._links.values():
        held.until -= session.LINK_S
    return _opened(scene, token)


add("once", "used-link", "a link that was used", _twice)
add("once", "stale-link", "a link that is too old", _stale)
add(
    "once",
    "guessed-link",
    "a link that was guessed",
    lambda s, r: _opened(s, base64.urlsafe_b64encode(r.randbytes(32)).decode().rstrip("=")),
)


def _looked_at(method: str) -> Try:
    def attempt(scene: Scene, _rng: random.Random) -> str | None:
        answer = scene.ask(method, f"/en/login/{_token(scene)}")
        return "opened a session by looking" if "set-cookie" in answer.headers else None

    return attempt


add("looking", "prefetched-link", "a program that looks at links in advance", _looked_at("GET"))
add("looking", "head-link", "the same, asking for headers alone", _looked_at("HEAD"))


# -- what is not for the public ----------------------------------------------------------------------


def _seen(path: Callable[[Scene], str], **more: Any) -> Try:
    def attempt(scene: Scene, _rng: random.Random) -> str | None:
        answer = scene.get(path(scene), **more)
        return "saw what is for members" if answer.status_code == 200 else None

    return attempt


for _name, _path in (
    ("ledger", "/en/ledger"),
    ("entry", "/en/ledger/5"),
    ("proof", "/en/ledger/5/proof"),
    ("consistency", "/en/ledger/consistency?old=1&new=5"),
    ("decisions", "/en/decisions"),
    ("runs", "/en/runs"),
    ("run", "/fr/runs/run"),
    ("chart", "/en/runs/run/rounds.csv"),
    ("data", "/en/data"),
):
    add("levels", f"public-{_name}", f"somebody of the public asks for {_path}", _seen(lambda s, p=_path: p))
add(
    "levels",
    "public-proposal",
    "somebody of the public knows a proposal's name",
    _seen(lambda s: f"/en/decisions/{s.board.world.names['hostile']}"),
)
add(
    "levels",
    "public-part",
    "somebody of the public asks for a part of a page alone",
    _seen(lambda s: "/en/decisions", headers={"HX-Request": "true"}),
)
add(
    "levels",
    "claimed-role",
    "a role in the address and in a header",
    _seen(lambda s: "/en/ledger?role=auditor&opened=member", headers={"X-Role": "auditor"}),
)


def _audit(member: str | None, path: str) -> Try:
    def attempt(scene: Scene, _rng: random.Random) -> str | None:
        cookie = scene.board.cookie(member, scene.url) if member else None
        answer = scene.get(path, cookie)
        return "saw what is for auditors" if answer.status_code == 200 else None

    return attempt


add("roles", "public-desk", "somebody of the public asks for a desk", _audit(None, "/en/desk"))
add(
    "roles",
    "public-audit",
    "somebody of the public asks for the auditors' page",
    _audit(None, "/en/desk/audit"),
)
add("roles", "member-audit", "a member that is no auditor asks for it", _audit("dan", "/en/desk/audit"))
add(
    "roles",
    "steward-audit",
    "a steward that is no auditor asks for it",
    _audit("ada", "/fr/desk/audit?role=auditor"),
)


# -- words -------------------------------------------------------------------------------------------


def _words(path: Callable[[Scene], str], cookie: bool = True) -> Try:
    def attempt(scene: Scene, _rng: random.Random) -> str | None:
        answer = scene.get(path(scene), scene.bob if cookie else None)
        html = answer.headers.get("content-type", "").startswith("text/html")
        return "put markup into a page" if html and (SCRIPT in answer.text or MARKUP in answer.text) else None

    return attempt


for _name, _what, _where in (
    ("script-title", "a proposal's title", lambda s: "/en/decisions"),
    ("script-text", "a proposal's text", lambda s: f"/en/decisions/{s.board.world.names['hostile']}"),
    ("script-reason", "a ballot's reason", lambda s: f"/fr/decisions/{s.board.world.names['hostile']}"),
    ("script-pledge", "what a pledge says", lambda s: "/en/desk"),
    ("script-dispute", "what a dispute says", lambda s: "/en/desk/audit"),
    ("script-charter", "a charter's title", lambda s: "/en/decisions/charter"),
    ("script-search", "a word that is searched for", lambda s: f"/en/data?q={SCRIPT}"),
    ("script-path", "an address", lambda s: f"/en/members/{MARKUP}=alert(1)>"),
    ("script-error", "what an error repeats", lambda s: f"/en/runs/{MARKUP}=alert(1)>"),
):
    add("escaping", _name, f"markup in {_what}", _words(_where))


def _policy(path: str, method: str = "GET") -> Try:
    def attempt(scene: Scene, _rng: random.Random) -> str | None:
        found = scene.ask(method, path, scene.bob).headers.get("content-security-policy", "")
        sound = "default-src 'none'" in found and "script-src 'self'" in found and "unsafe" not in found
        return None if sound else "got an answer in which scripts would run"

    return attempt


for _name, _path, _method in (
    ("inline-page", "/en/decisions", "GET"),
    ("inline-missing", "/en/nothing", "GET"),
    ("inline-file", "/static/nothing.js", "GET"),
    ("inline-refused", "/en/leave", "POST"),
    ("inline-json", "/en/ledger/5/proof", "GET"),
):
    add("policy", _name, f"inline script at {_method} {_path}", _policy(_path, _method))


# -- files -------------------------------------------------------------------------------------------


def _file(path: str) -> Try:
    def attempt(scene: Scene, _rng: random.Random) -> str | None:
        found = scene.raw(f"GET {path} HTTP/1.1\r\nHost: {scene.host}\r\nConnection: close\r\n\r\n".encode())
        return "read a file of this machine" if SECRET.encode() in found else None

    return attempt


for _name, _path in (
    ("dots", "/static/../secret.txt"),
    ("deep-dots", "/static/../../../../../../secret.txt"),
    ("encoded-dots", "/static/%2e%2e/secret.txt"),
    ("encoded-slashes", "/static/..%2fsecret.txt"),
    ("twice-encoded", "/static/%252e%252e%252fsecret.txt"),
    ("backslashes", "/static/..\\secret.txt"),
    ("nul", "/static/app.css%00/../../secret.txt"),
    ("absolute", "/static//secret.txt"),
):
    add("files", f"path-{_name}", f"a file by {_path}", _file(_path))


# -- parameters and bodies ---------------------------------------------------------------------------


def _taken(path: str) -> Try:
    def attempt(scene: Scene, _rng: random.Random) -> str | None:
        began = time.monotonic()
        status = scene.get(path, scene.bob).status_code
        if status not in (400, 404, 414):
            return f"was answered {status}"
        return "held the server up" if time.monotonic() - began > PATIENCE_S else None

    return attempt


for _name, _what, _path in (
    ("huge-page", "a page's number of 4000 digits", "/en/ledger?page=" + "9" * 1500),
    ("large-page", "a page's number of 20 digits", "/en/ledger?page=" + "9" * 20),
    ("negative-page", "a negative page", "/en/ledger?page=-1"),
    ("foreign-digits", "a number in other digits", "/en/ledger?page=%D9%A3"),
    ("fraction", "a fraction of a page", "/en/ledger?page=1.5"),
    ("word-page", "a word for a page", "/en/decisions?page=next"),
    ("huge-entry", "an entry's number beyond all", "/en/ledger?entry=" + "9" * 17),
    ("word-proof", "words for the sizes of a tree", "/en/ledger/consistency?old=one&new=two"),
    ("long-word", "a word of 1500 letters", "/en/ledger?kind=" + "x" * 1500),
    ("long-target", "an address of 6000 letters", "/en/ledger?x=" + "x" * 6000),
):
    add("parameters", _name, _what, _taken(_path))


def _bomb(path: str, body: Callable[[random.Random], Any], **headers: str) -> Try:
    def attempt(scene: Scene, rng: random.Random) -> str | None:
        began = time.monotonic()
        try:
            status = scene.post(path, content=body(rng), headers=headers).status_code
        except httpx.TransportError:
            return None  # cut off before it had sent all
        if status not in (400, 413):
            return f"was answered {status}"
        return "held the server up" if time.monotonic() - began > PATIENCE_S else None

    return attempt


def _chunks(_rng: random.Random) -> Any:
    return (b"[" * 4096 for _ in range(64))


for _name, _what, _body, _more in (
    ("json-deep", "JSON that is nested without end", lambda r: b"[" * r.randrange(2000, 16_000), {}),
    ("json-wide", "JSON with very many values", lambda r: b"[" + b"0," * 8000 + b"0]", {}),
    ("json-number", "a number of very many digits", lambda r: b'{"payload":' + b"9" * 15_000 + b"}", {}),
    ("large-body", "a body of a megabyte", lambda r: b"x" * (1 << 20), {}),
    ("chunked-body", "a body that does not say how long it is", _chunks, {}),
    ("packed-body", "a packed body", lambda r: b"\x1f\x8b" + r.randbytes(500), {"Content-Encoding": "gzip"}),
    ("no-json", "bytes that are nothing", lambda r: r.randbytes(r.randrange(1, 4000)), {}),
    ("form-body", "a form in the place of JSON", lambda r: b"payload=x&signatures=y", {}),
):
    add("bodies", _name, _what, _bomb("/login/answer", _body, **_more))


# -- methods, redirects, caches -------------------------------------------------------------------------


def _by(method: str, path: str = "/en/leave", **headers: str) -> Try:
    def attempt(scene: Scene, _rng: random.Random) -> str | None:
        scene.ask(method, path, scene.bob, headers=headers)
        return None if scene.signed_in() else f"signed bob out by {method}"

    return attempt


for _name, _what, _attempt in (
    ("get-leave", "a picture whose address signs out", _by("GET")),
    ("head-leave", "the same by HEAD", _by("HEAD")),
    ("put-leave", "a method that no page uses", _by("PUT")),
    ("delete-leave", "DELETE", _by("DELETE")),
    ("options-leave", "OPTIONS", _by("OPTIONS")),
    ("made-up-method", "a method that there is not", _by("LEAVE")),
    ("override-header", "GET that a header calls POST", _by("GET", **{"X-HTTP-Method-Override": "POST"})),
    ("override-parameter", "GET that a parameter calls POST", _by("GET", "/en/leave?_method=POST")),
):
    add("methods", _name, _what, _attempt)


def _sent_to(target: str, **headers: str) -> Try:
    def attempt(scene: Scene, _rng: random.Random) -> str | None:
        more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        found = scene.raw(
            f"GET {target} HTTP/1.1\r\nHost: {scene.host}\r\n{more}Connection: close\r\n\r\n".encode()
        )
        head = found.partition(b"\r\n\r\n")[0].lower()
        lines = [line.partition(b":") for line in head.split(b"\r\n")]
        to = next((value.strip() for name, _, value in lines if name == b"location"), b"")
        return "was sent to another site" if to.startswith((b"//", b"http", b"\\", b"/\\")) else None

    return attempt


for _name, _what, _target, _more in (
    ("next-parameter", "where to go then, in the address", "/?next=//evil.example/", {}),
    ("next-absolute", "the same, in full", "/?next=https://evil.example/", {}),
    ("forwarded-redirect", "a redirect by X-Forwarded-Host", "/", {"X-Forwarded-Host": "evil.example"}),
    ("language-redirect", "an address as a language", "/", {"Accept-Language": "//evil.example"}),
):
    add("redirects", _name, _what, _sent_to(_target, **_more))


def _kept(path: str, **headers: str) -> Try:
    def attempt(scene: Scene, _rng: random.Random) -> str | None:
        answer = scene.get(path, scene.bob, headers=headers)
        private = "bob" in answer.text or answer.status_code == 200
        kept = answer.headers.get("cache-control", "")
        return "left something for a cache" if private and "no-store" not in kept else None

    return attempt


for _name, _what, _path in (
    ("cached-desk", "a member's desk in a shared cache", "/en/desk"),
    ("cached-proof", "a proof that is for members", "/en/ledger/5/proof"),
    ("cached-chart", "figures that are for members", "/en/runs/run/rounds.json"),
    ("cached-table", "a table that is for members", "/en/runs/run/rounds.csv"),
    ("cached-as-file", "a desk that is called like a file", "/en/desk?x=.css"),
):
    add("keeping", _name, _what, _kept(_path))


def _fixed(scene: Scene, _rng: random.Random) -> str | None:
    """The victim's browser has a cookie that the attacker chose."""
    chosen = "chosen-by-somebody-else"
    token = _token(scene)
    scene.post(f"/en/login/{token}", chosen)
    return "shares a session" if scene.is_member(chosen) else None


add("chance", "fixed-cookie", "a cookie that was there before signing in", _fixed)


# -- the node's page, live views, framing -----------------------------------------------------------------


def _mine(path: Callable[[Scene, random.Random], str], **more: Any) -> Try:
    def attempt(scene: Scene, rng: random.Random) -> str | None:
        answer = scene.get(path(scene, rng), scene.bob, **more)
        return "saw what left a node" if answer.status_code in (200, 303) else None

    return attempt


add("owner", "node-page", "a member asks for a node's own page", _mine(lambda s, r: "/en/mine"))
add("owner", "node-table", "the same as a table", _mine(lambda s, r: "/fr/mine.csv"))
add("owner", "node-guess", "a link that was guessed", _mine(lambda s, r: "/mine/" + r.randbytes(24).hex()))
add(
    "owner",
    "node-cookie",
    "a cookie that was made up",
    _mine(lambda s, r: "/en/mine", headers={"Cookie": "tapestry-mine-0=x"}),
)


def _streams(scene: Scene, _rng: random.Random) -> str | None:
    asked = (
        f"GET /en/runs/run/live HTTP/1.1\r\nHost: {scene.host}\r\nCookie: {scene.cookie_name}={scene.bob}\r\n\r\n"
    ).encode()
    port = int(scene.host.rpartition(":")[2])
    held: list[socket.socket] = []
    try:
        for _ in range(STREAMS + 3):
            sock = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
            held.append(sock)
            sock.sendall(asked)
            sock.settimeout(PATIENCE_S)
            sock.recv(64)
        if scene.get("/en/", scene.bob).status_code != 200:
            return "kept others from a page"
        return "took more live views than there are" if scene.board.site.live.open > STREAMS else None
    finally:
        for sock in held:
            sock.close()
        deadline = time.monotonic() + 30
        while scene.board.site.live.open and time.monotonic() < deadline:
            scene.board.site.bell.ring()
            time.sleep(0.05)


add("streams", "many-streams", "one browser that opens live views without end", _streams)


def _smuggled(make: Callable[[bytes], bytes]) -> Try:
    def attempt(scene: Scene, _rng: random.Random) -> str | None:
        inner = (
            f"POST /en/leave HTTP/1.1\r\nHost: {scene.host}\r\nOrigin: {scene.url}\r\n"
            f"Cookie: {scene.cookie_name}={scene.bob}\r\nContent-Length: 0\r\n\r\n"
        ).encode()
        outer = f"POST /login/challenge HTTP/1.1\r\nHost: {scene.host}\r\nOrigin: {scene.url}\r\n".encode()
        plain = outer + b"Content-Length: 0\r\n\r\n" + inner
        scene.raw(plain if PLAINLY else outer + make(inner))
        return None if scene.signed_in() else "had an inner request done"

    return attempt


def _length(inner: bytes, more: bytes = b"") -> bytes:
    return b"Content-Length: %d\r\n%b\r\n%b" % (len(inner), more, inner)


for _name, _what, _framed in (
    ("cl-te", "a length, and chunks that end early", lambda i: _length(b"0\r\n\r\n" + i, b"Transfer-Encoding: chunked\r\n")),
    ("te-cl", "chunks, and a length that ends early", lambda i: b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(i), i)),
    ("two-lengths", "two lengths", lambda i: b"Content-Length: 0\r\n" + _length(i)),
    ("listed-length", "a list of lengths", lambda i: b"Content-Length: 0, %d\r\n\r\n%b" % (len(i), i)),
    ("spaced-header", "a space before the colon", lambda i: b"Content-Length : 0\r\n" + _length(i)),
    ("folded-header", "a header over two lines", lambda i: b"X: a\r\n Content-Length: 0\r\n" + _length(i)),
    ("signed-length", "a length with a sign", lambda i: b"Content-Length: +0\r\n\r\n" + b"x" + i),
    ("xchunked", "a coding that is nearly chunked", lambda i: _length(b"0\r\n\r\n" + i, b"Transfer-Encoding: xchunked\r\n")),
    ("bare-feeds", "line feeds alone", lambda i: b"X: a\nContent-Length: 0\n" + _length(i)),
    ("nul-header", "a zero byte in a header", lambda i: b"X: a\x00b\r\n" + _length(i)),
):  # fmt: skip
    add("framing", f"smuggled-{_name}", f"a request inside of another: {_what}", _smuggled(_framed))

assert len({each.name for each in CLASSES}) == len(CLASSES)
