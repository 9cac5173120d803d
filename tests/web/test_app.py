"""What every answer has, whatever is asked."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest
from starlette.testclient import TestClient

from tapestry.web.app import make_app
from tapestry.web.headers import HEADERS
from tapestry.web.serve import config_of
from tapestry.web.site import Site
from tests.web.served import served

ASKED = ("/", "/en/", "/fr/", "/en/nothing", "/xx/", "/static/nothing.js")


@pytest.mark.parametrize("path", ASKED)
def test_every_answer_is_guarded(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert "set-cookie" not in answer.headers


def test_the_language_a_browser_asks_for(client: TestClient) -> None:
    asked = {"Accept-Language": "de, fr-CA;q=0.9, en;q=0.5"}
    assert client.get("/", headers=asked).headers["location"] == "/fr/"
    assert client.get("/", headers={"Accept-Language": "de"}).headers["location"] == "/en/"
    assert '<html lang="fr">' in client.get("/fr/").text


@pytest.mark.parametrize("path", ["/xx/", "/en/nothing", "/static/app.js", "/static/vendor/htmx/LICENSE"])
def test_what_is_not_there(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "<h1>" in answer.text


def test_another_name_goes_no_further(client: TestClient) -> None:
    assert client.get("/en/", headers={"Host": "evil.example"}).status_code == 421
    for name in ("localhost:8471", "[::1]:8471", "127.0.0.1"):
        assert client.get("/en/", headers={"Host": name}).status_code == 200


def test_no_address_is_too_long_to_be_refused(client: TestClient) -> None:
    assert client.get("/en/?q=" + "x" * 4000).status_code == 414


def test_files_are_kept_by_browsers_for_good(client: TestClient, site: Site) -> None:
    for name in site.assets.names:
        answer = client.get(site.assets.path(name))
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["content-encoding"] == "gzip"


@pytest.mark.parametrize("cut", [True, False])
def test_who_sends_no_request_is_cut_off(site: Site, monkeypatch: pytest.MonkeyPatch, cut: bool) -> None:
    """The control: the server as it comes, which waits for ever."""
    monkeypatch.setattr("tapestry.transport.listening.HEAD_S", 0.2)
    config = config_of(make_app(site))
    if not cut:
        config.http = "auto"
    with ExitStack() as stack:
        port = int(stack.enter_context(served(make_app(site), config)).rpartition(":")[2])
        slow = stack.enter_context(socket.create_connection(("127.0.0.1", port), 5.0))
        slow.sendall(b"GET /en/ HTTP/1.1\r\n")
        slow.settimeout(1.5)
        try:
            closed = slow.recv(1) == b""
        except TimeoutError:
            closed = False
    assert closed == cut
