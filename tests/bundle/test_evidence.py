"""Evidence: in-toto statements that others' readers open, about just the contributions there are."""

from __future__ import annotations

import base64
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from in_toto_attestation.v1 import statement as in_toto
from in_toto_attestation.v1 import statement_pb2
from securesystemslib.dsse import Envelope as OtherEnvelope
from securesystemslib.signer import SSlibKey

from tapestry.bundle import check, statement, summary
from tapestry.bundle import page as page_module
from tapestry.bundle.statement import Statement
from tapestry.catalog.withdrawal import Withdrawn
from tapestry.errors import BundleError, FormatError
from tapestry.node import evidence as telling
from tapestry.protocol import canonical
from tapestry.training.shelf import Shelf
from tapestry.training.withdrawals import Withdrawals
from tests.bundle.support import NODE, refused, sign_anew
from tests.sim.setting import key_of

KEY = key_of(f"{NODE} node")


@pytest.fixture(scope="module")
def shown(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of evidence of a node that says where it stands."""
    home = Path(shutil.copytree(made.with_name("home"), tmp_path_factory.mktemp("home") / "node"))
    toml = home / "node.toml"
    toml.write_text(toml.read_text().replace('# residency = "CH"', 'residency = "CH"'))
    out = home.with_name("evidence")
    found = telling.evidence(home, out)
    assert not found.lacking
    return out


@pytest.fixture
def folder(shown: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shown, tmp_path / "evidence"))


def payloads(folder: Path) -> dict[str, dict[str, Any]]:
    """What each statement says, by path."""
    found = {}
    for path in sorted((folder / "statements").iterdir()):
        value = json.loads(path.read_bytes())
        assert value["payloadType"] == "application/vnd.in-toto+json"
        found[path.name] = json.loads(base64.b64decode(value["payload"]))
    return found


def test_statements_are_those_of_the_specification(shown: Path) -> None:
    """https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md"""
    every = payloads(shown)
    assert len(every) == 4  # two contributions, of each both
    for said in every.values():
        assert set(said) == {"_type", "subject", "predicateType", "predicate"}
        assert said["_type"] == "https://in-toto.io/Statement/v1"
        assert re.match(r"^[a-z][a-z0-9+.-]*:", said["predicateType"])
        assert isinstance(said["predicate"], dict)
        assert len({subject["name"] for subject in said["subject"]}) == len(said["subject"]) == 2
        for subject in said["subject"]:
            assert canonical.is_sha256(subject["digest"]["sha256"])
        assert "not checked" in said["predicate"]["assertion"]
    use = next(s["predicate"] for s in every.values() if "data-use" in s["predicateType"])
    assert use["datasets"][0]["decision"]["permitted"] is True
    place = next(s["predicate"] for s in every.values() if "residency" in s["predicateType"])
    assert (place["residency"], place["airlock"]) == ("CH", "none")
    assert place["datasets"][0]["allowed"] is True


def test_the_projects_own_library_takes_them(shown: Path) -> None:
    for said in payloads(shown).values():
        found = in_toto.Statement.copy_from_pb(ParseDict(said, statement_pb2.Statement()))
        found.validate()
        other = ParseDict({**said, "_type": "https://in-toto.io/Statement/v2"}, statement_pb2.Statement())
        with pytest.raises(ValueError, match="type"):
            in_toto.Statement.copy_from_pb(other).validate()


def test_another_reader_verifies_the_signatures(shown: Path) -> None:
    key = SSlibKey(KEY.key_id, "ed25519", "ed25519", {"public": KEY.public_key})
    for path in sorted((shown / "statements").iterdir()):
        envelope = OtherEnvelope.from_dict(json.loads(path.read_bytes()))
        envelope.verify([key], 1)
        stranger = SSlibKey("0" * 64, "ed25519", "ed25519", {"public": key_of("nobody").public_key})
        with pytest.raises(Exception, match="signature"):
            envelope.verify([stranger], 1)


def change(folder: Path, path: Path, **other: Any) -> None:
    """A predicate that says something else, signed by the node, in a list made anew."""
    value = json.loads(base64.b64decode(json.loads(path.read_bytes())["payload"]))
    value["predicate"] |= other
    changed = Statement.from_bytes(canonical.encode(value))
    path.write_bytes(statement.sign(changed, KEY).to_bytes())
    sign_anew(folder)


def test_what_was_signed_before_cannot_be_told_otherwise(folder: Path) -> None:
    path = next(iter(sorted((folder / "statements").glob("*data-use*"))))
    whole = path.read_bytes()
    for other in ({"tokens": 1}, {"dataManifest": {"sha256": "0" * 64}}, {"round": 9}, {"node": "bob-1"}):
        change(folder, path, **other)
        refused(folder, path.name)
        path.write_bytes(whole)
    change(folder, path, datasets=[])  # which is the owner's word
    check.check(folder)
    place = next(iter(sorted((folder / "statements").glob("*residency*"))))
    change(folder, place, airlock="netns")
    refused(folder, place.name)
    change(folder, place, airlock="none", residency="NO")
    check.check(folder)


def test_statements_of_somebody_else_or_about_nothing(folder: Path) -> None:
    first, second = sorted((folder / "statements").glob("*data-use*"))
    whole = first.read_bytes()
    first.write_bytes(second.read_bytes())
    sign_anew(folder)
    refused(folder, first.name)
    value = json.loads(base64.b64decode(json.loads(whole)["payload"]))
    signed = statement.sign(Statement.from_bytes(canonical.encode(value)), key_of("bob-1 node"))
    first.write_bytes(signed.to_bytes())
    sign_anew(folder)
    refused(folder, first.name)
    first.write_bytes(whole)
    more = folder / "statements" / f"{'0' * 64}.data-use.json"
    more.write_bytes(whole)
    sign_anew(folder)
    refused(folder, "about no contribution")
    more.unlink()
    sign_anew(folder)
    check.check(folder)


def test_a_statement_has_no_other_fields(shown: Path) -> None:
    value = next(iter(payloads(shown).values()))
    Statement.from_bytes(canonical.encode(value))
    for other in ({"more": 1}, {"_type": "https://in-toto.io/Statement/v0.1"}, {"subject": []}):
        with pytest.raises(FormatError):
            Statement.from_bytes(canonical.encode(value | other))
    types = {statement.DATA_USE, statement.RESIDENCY} - {value["predicateType"]}
    with pytest.raises(FormatError):
        Statement.from_bytes(canonical.encode(value | {"predicateType": types.pop()}))


class Page(HTMLParser):
    """Tags and links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links |= {value or "" for name, value in attrs if name in ("href", "src")}


def test_the_page_fetches_and_runs_nothing_and_links_every_file(shown: Path) -> None:
    text = (shown / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "form", "base"}
    files = {path.relative_to(shown).as_posix() for path in shown.rglob("*") if path.is_file()}
    assert page.links == files - {"index.html", "bundle.json", "files.jsonl"}
    assert "url(" not in text
    assert "http" not in text.replace("http-equiv", "")


def test_words_of_a_card_are_no_markup(made: Path) -> None:
    card = Shelf.of_node(made.with_name("home")).read("text").card
    loud = card.model_copy(
        update={"owner": "<script>alert(1)</script>|*x*", "visibility": {"owner": "public"}}
    )
    silent = card.model_copy(update={"name": "other", "visibility": {"category": "private"}})
    answers = summary.fill([loud, silent], ["toy"])
    told = summary.markdown(answers, "n")
    assert "alert" in told
    assert "<script>" not in told
    assert "\\|\\*x\\*" in told
    shown_there = page_module._summary(answers)
    assert "alert" in shown_there
    assert "<script>" not in shown_there
    assert "perhaps other, whose category is not public" in told


def test_nothing_is_answered_that_no_card_shows(made: Path) -> None:
    card = Shelf.of_node(made.with_name("home")).read("text").card
    hidden = card.model_copy(update={"visibility": dict.fromkeys(summary.PUBLIC, "private")})
    told = summary.markdown(summary.fill([hidden], ["toy"]), "n")
    for secret in ("CC0", "acme", "de,", "general"):
        assert secret not in told
    size = {answer.field: answer.value for answer in summary.fill([card], [])}["Size"]
    assert size is None, "the size of a dataset is for the consortium"
    open_size = card.model_copy(update={"visibility": {"tokens": "public"}})
    size = {answer.field: answer.value for answer in summary.fill([open_size], [])}["Size"]
    assert size == "less than 1 billion tokens"


def test_a_changed_page_is_refused(folder: Path) -> None:
    page = folder / "index.html"
    page.write_text(page.read_text().replace("permitted", "permitteD"))
    with pytest.raises(BundleError, match=r"index\.html was changed"):
        check.check(folder)


def test_withdrawn_text_would_be_refused_now(made: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(made.with_name("home"), tmp_path / "home"))
    toml = home / "node.toml"
    toml.write_text(toml.read_text().replace('# residency = "CH"', 'residency = "CH"'))
    Withdrawals(home).put(Withdrawn(dataset="text", at="2026-11-22T06:00:00.000Z"))
    found = telling.evidence(home, tmp_path / "out")
    assert "2 contributions whose data the rules would refuse now" in dict(found.rows)["statements"]
    said = [each["predicate"] for each in payloads(tmp_path / "out").values()]
    assert {tuple(each["datasets"][0]["decision"]["rules"]) for each in said if "steps" in each} == {
        ("withdrawn",)
    }


def test_what_is_lost_is_said(made: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(made.with_name("home"), tmp_path / "home"))
    shutil.rmtree(home / "cache" / "manifests")
    found = telling.evidence(home, tmp_path / "out")
    assert "lost" in dict(found.rows)["statements"]
    assert all(said["predicate"]["lacking"] for said in payloads(tmp_path / "out").values())
