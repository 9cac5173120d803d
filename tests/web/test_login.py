"""Signing in over HTTP: by the command's requests, the link, and what a session then sees."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from starlette.testclient import TestClient

from tapestry.governance.state import Assembly
from tapestry.identity.keyring import KeyRing, make_certificate, make_revocation
from tapestry.identity.keys import KeyPair
from tapestry.identity.logins import make_login
from tapestry.protocol import canonical
from tapestry.protocol.views import Hello
from tapestry.web import cookies
from tapestry.web.app import make_app
from tapestry.web.known import Known
from tapestry.web.settings import WebSettings
from tapestry.web.site import Site

AT = "2026-05-01T12:00:00.000Z"
CONSORTIUM = "c" * 64
BASE = "http://127.0.0.1"
ROOT, VOTE = KeyPair.generate(), KeyPair.generate()


def ring() -> KeyRing:
    certificate = make_certificate(
        ROOT,
        member="alpha",
        node=None,
        role="vote",
        public_key=VOTE.public_key,
        not_before="2026-01-01T00:00:00.000Z",
        expires="2027-01-01T00:00:00.000Z",
    )
    return KeyRing().admit("alpha", ROOT.public_key, sequence=1).certify(certificate, sequence=2, at=AT)


@dataclass
class Scene:
    """A dashboard with one member, whose state may be changed."""

    known: Known
    client: TestClient
    base: str = BASE

    def post(self, path: str, body: bytes = b"", **headers: str) -> Any:
        return self.client.post(path, content=body, headers={"Origin": self.base, **headers})

    def token(self) -> str:
        given = self.post("/login/challenge").json()
        signed = make_login(
            VOTE, consortium=CONSORTIUM, origin=self.base, challenge=given["challenge"], member="alpha"
        )
        answer = self.post("/login/answer", signed.to_bytes())
        assert answer.status_code == 200, answer.text
        return str(answer.json()["token"])

    def enter(self) -> str:
        """Signed in: the cookie, as it was set."""
        answer = self.post(f"/en/login/{self.token()}")
        assert answer.status_code == 303, answer.text
        return str(answer.headers["set-cookie"])

    def signed_in(self) -> bool:
        return "Sign out" in self.client.get("/en/").text


def scene(settings: WebSettings | None = None, base: str = BASE) -> Iterator[Scene]:
    hello = Hello(
        consortium=CONSORTIUM, core_key=KeyPair.generate().public_key, release="0", formats={}, time=AT
    )
    known = Known(hello=hello, assembly=Assembly(ring=ring()), heard_at=AT, heard_s=time.monotonic())
    site = Site(settings=settings or WebSettings())
    with TestClient(make_app(site), base_url=base, follow_redirects=False) as client:
        found = Scene(known, client, base)
        site.follower = found  # type: ignore[assignment]  # it has what is asked of one here
        yield found


@pytest.fixture(name="scene")
def _scene() -> Iterator[Scene]:
    yield from scene()


def test_a_member_signs_in_sees_its_name_and_signs_out(scene: Scene) -> None:
    assert not scene.signed_in()
    cookie = scene.enter()
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert scene.signed_in()
    page = scene.client.get("/en/")
    assert page.headers["cache-control"] == "no-store" and "Cookie" in page.headers["vary"]
    scene.post("/en/leave")
    assert not scene.signed_in()


def test_a_link_says_whose_it_is_and_does_nothing_by_being_looked_at(scene: Scene) -> None:
    token = scene.token()
    moved = scene.client.get(f"/login/{token}", headers={"Accept-Language": "fr"})
    assert (moved.status_code, moved.headers["location"]) == (307, f"/fr/login/{token}")
    for _ in range(2):
        page = scene.client.get(f"/en/login/{token}")
        assert "Sign in as alpha" in page.text
        assert page.headers["referrer-policy"] == "same-origin"  # with less, a browser posts from nowhere
        assert page.headers["cache-control"] == "no-store"
        assert "set-cookie" not in page.headers
    assert not scene.signed_in()
    assert scene.post(f"/en/login/{token}").status_code == 303
    assert scene.post(f"/en/login/{token}").status_code == 401
    assert scene.client.get(f"/en/login/{token}").status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": BASE, "Sec-Fetch-Site": "cross-site"},
        {"Origin": BASE, "Sec-Fetch-Site": "same-site"},
        {"Origin": "http://localhost"},
        {"Origin": BASE + ":8471"},
    ],
)
def test_nothing_is_done_for_another_page(scene: Scene, headers: dict[str, str]) -> None:
    token = scene.token()
    assert scene.post(f"/en/login/{token}", **headers).status_code == 403
    assert scene.client.post(f"/en/login/{token}").status_code == 403  # no Origin at all
    scene.enter()
    assert scene.post("/en/leave", **headers).status_code == 403
    assert scene.signed_in()


def test_a_session_ends_with_its_key(scene: Scene) -> None:
    scene.enter()
    ended = make_revocation(ROOT, member="alpha", revoked=VOTE.key_id, reason="compromised")
    now = scene.known.assembly.ring.revoke(ended, sequence=3)
    scene.known = replace(scene.known, assembly=Assembly(ring=now))
    assert not scene.signed_in()


def test_errors_are_for_the_command(scene: Scene) -> None:
    for body in (b"", b"{}", b"[" * 20_000, b"x" * 20_000, canonical.encode({"payload": "x"})):
        answer = scene.post("/login/answer", body)
        assert answer.status_code in (400, 413)
        assert set(answer.json()["error"]) == {"code", "hint", "message"}
    assert scene.post("/login/challenge", b"x").status_code == 413


def test_before_the_core_was_heard_of_nobody_signs_in(scene: Scene) -> None:
    signed = make_login(VOTE, consortium=CONSORTIUM, origin=BASE, challenge="x" * 56, member="alpha")
    scene.known = Known()
    assert scene.post("/login/answer", signed.to_bytes()).status_code == 503


HTTPS = "https://dash.example"


def test_over_tls_the_cookie_is_for_it_alone() -> None:
    for one in scene(WebSettings(origins=(HTTPS,), names=("dash.example",)), HTTPS):
        cookie = one.enter()
        assert cookie.startswith("__Host-tapestry=") and "Secure" in cookie
        assert one.signed_in()


@pytest.mark.parametrize(
    ("settings", "base"),
    [
        (WebSettings(listen="0.0.0.0", names=("dash.example",)), "http://dash.example"),
        (WebSettings(listen="0.0.0.0"), "http://dash.example"),
        (WebSettings(origins=("http://dash.example",), names=("dash.example",)), "http://dash.example"),
        (WebSettings(origins=(HTTPS,)), "http://127.0.0.1"),
    ],
)
def test_nobody_signs_in_where_others_could_listen(settings: WebSettings, base: str) -> None:
    for one in scene(settings, base):
        assert "Nobody can sign in under this address" in one.client.get("/en/login").text
        assert one.post("/login/challenge").status_code == 403


def test_how_to_sign_in_names_this_dashboard(scene: Scene) -> None:
    page = scene.client.get("/en/login").text
    assert f"tapestry web login {BASE} --member FOLDER" in page
    assert cookies.cookie_name(BASE) == "tapestry-80"
