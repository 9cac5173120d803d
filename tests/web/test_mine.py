"""A node's own page: for whoever has its link, of its own files, and of nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tapestry.cli.web_node import building
from tapestry.errors import SettingsError
from tapestry.node.approval import Approvals
from tapestry.node.home import Home
from tapestry.node.member import member_init
from tapestry.node.setup import init
from tapestry.web.app import make_app
from tapestry.web.settings import WebSettings
from tapestry.web.site import Site
from tests.web.world import SCRIPT


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A node that sent something, and waits for a word."""
    root = tmp_path / "node"
    corpus = tmp_path / "text"
    corpus.mkdir()
    (corpus / "a.txt").write_text("some text\n")
    member_init(tmp_path / "alpha", "alpha")
    at = init(root, tmp_path / "alpha", "alpha-1", corpus)
    line = {"time": 1795351461.3, "kind": "delta-shard", "name": SCRIPT, "bytes": 694176, "sha256": "a" * 64}
    at.egress_log.write_text(json.dumps(line) + "\n" + json.dumps({**line, "name": "run.2/delta/0"}) + "\n")
    waits = {"kind": "result", "name": "run.3", "bytes": 1234, "sha256": "b" * 64}
    Approvals(at).decided("run.3", [waits])
    return root


@pytest.fixture
def site(home: Path) -> Site:
    return Site(settings=WebSettings(), building=lambda: building(home))


@pytest.fixture
def client(site: Site) -> Iterator[TestClient]:
    with TestClient(make_app(site), base_url="http://127.0.0.1", follow_redirects=False) as client:
        yield client


def test_nobody_looks_without_the_link(client: TestClient, site: Site) -> None:
    assert client.get("/en/mine").status_code == 403
    assert client.get("/en/mine.csv").status_code == 403
    for wrong in ("x", site.owner_key[:-1], site.owner_key + "x", "é"):
        assert client.get(f"/mine/{wrong}").status_code == 404
    assert client.get("/en/mine").status_code == 403
    opened = client.get(f"/mine/{site.owner_key}", headers={"Accept-Language": "fr"})
    assert (opened.status_code, opened.headers["location"]) == (303, "/fr/mine")
    assert {"HttpOnly", "SameSite=strict"} <= set(opened.headers["set-cookie"].split("; "))
    assert client.get("/en/mine").status_code == 200


def test_it_shows_what_left_what_waits_and_how_to_let_it(client: TestClient, site: Site, home: Path) -> None:
    client.get(f"/mine/{site.owner_key}")
    page = client.get("/en/mine")
    assert page.headers["cache-control"] == "no-store"
    assert "694" in page.text and "run.2/delta/0" in page.text
    assert f"tapestry node egress approve {home} run.3" in page.text
    assert "<script>alert" not in page.text and "&lt;script&gt;alert" in page.text
    assert "page=" not in page.text
    table = client.get("/fr/mine.csv").text.splitlines()
    assert len(table) == 3 and table[0].startswith("time,kind,name")
    Approvals(Home(home)).decide("run.3", passes=True)
    assert "egress approve" not in client.get("/en/mine").text


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8471", "tapestry.example.org"])
def test_no_name_but_this_machines_own_shows_it(home: Path, host: str) -> None:
    """As through a proxy that shows the dashboard to others."""
    at = Site(settings=WebSettings(names=("tapestry.example.org",)), building=lambda: building(home))
    own = host != "tapestry.example.org"
    with TestClient(make_app(at), base_url="http://127.0.0.1", follow_redirects=False) as client:
        headers = {"Host": host}
        opened = client.get(f"/mine/{at.owner_key}", headers=headers)
        assert opened.status_code == (303 if own else 404)
        headers["Cookie"] = f"tapestry-mine-80={at.owner_key}"
        assert client.get("/en/mine", headers=headers).status_code == (200 if own else 403)


def test_a_name_in_the_log_is_no_formula(client: TestClient, site: Site, home: Path) -> None:
    line = {"time": 1.0, "kind": "result", "name": "=1+1", "bytes": 1, "sha256": "a" * 64}
    Home(home).egress_log.write_text(json.dumps(line) + "\n")
    client.get(f"/mine/{site.owner_key}")
    assert ",'=1+1," in client.get("/en/mine.csv").text


def test_every_folder_but_a_nodes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        building(tmp_path)


def test_without_a_node_there_is_no_such_page() -> None:
    site = Site(settings=WebSettings())
    with TestClient(make_app(site), base_url="http://127.0.0.1") as client:
        assert client.get(f"/mine/{site.owner_key}").status_code == 404
        assert client.get("/en/mine").status_code == 404
