"""What a rehearsal says of itself: verdicts, the three forms of the report, what the command refuses."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from tapestry.cli.rehearsal import closing, markdown, page, pages, run, telling, timeline
from tapestry.cli.rehearsal.fault import NotSeen, Stage
from tapestry.cli.rehearsal.faults import FAULTS
from tapestry.cli.rehearsal.told import Chapter, Check, Figure, Kind, Look, Member, Record, Report
from tests.cli.conftest import Call

VOID = {"meta", "circle", "path", "rect", "line", "br"}


def check(held: bool = True, kind: Kind = "detected", **other: Any) -> Check:
    return Check(kind=kind, held=held, **({"what": "it is seen", "seen": "42"} | other))


def chapter(*checks: Check, key: str = "killed-core", **other: Any) -> Chapter:
    fields = {
        "title": "A fault",
        "fault": "we do",
        "expected": "it ends well",
        "began_s": 3.0,
        "ended_s": 9.0,
    }
    return Chapter(key=key, checks=checks, **(fields | other))


def report(*chapters: Chapter, **other: Any) -> Report:
    fields: dict[str, Any] = {
        "release": "1",
        "began": "2026-11-22T12:00:00.000Z",
        "seconds": 12.0,
        "machine": "here",
        "consortium": "ab" * 32,
        "quick": False,
        "passed": all(map(telling.good, chapters)),
        "members": (Member(name="a", about="text", part="", merged=3, start=5.0, end=4.0),),
        "figures": (Figure(name="merges", value="3"),),
        "merges": ((0.0, 0), (4.0, 1), (8.0, 2)),
    }
    return Report(chapters=chapters, **(fields | other))


BOTH = (check(), check(kind="recovered"))


def test_a_fault_is_passed_only_where_both_were_shown() -> None:
    assert chapter(*BOTH).passed
    assert not chapter(check()).passed, "nothing shows that it was recovered from"
    assert not chapter(check(kind="recovered")).passed, "nothing shows that it was detected"
    assert not chapter().passed
    assert not chapter(*BOTH, check(held=False)).detected
    assert chapter(*BOTH, check(held=False)).recovered
    assert not chapter(*BOTH, failure="it took too long").passed


def test_the_verdict_says_what_is_missing() -> None:
    assert telling.verdict(chapter(*BOTH)) == "DETECTED, RECOVERED"
    assert telling.verdict(chapter(*BOTH, check(held=False))) == "NOT DETECTED, RECOVERED"
    assert telling.verdict(chapter(check(), check(False, "recovered"))) == "DETECTED, NOT RECOVERED"
    assert telling.verdict(chapter(check(kind="recovered"), key="closing")) == "HOLDS"
    assert telling.verdict(chapter(check(False, "recovered"), key="closing")) == "DOES NOT HOLD"


class Balance(HTMLParser):
    """Tags that were opened and not closed; what could run or be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.active: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        names = {name for name, _ in attrs}
        if tag in ("script", "iframe", "img", "link", "object") or any(
            name.startswith("on") for name in names
        ):
            self.active.append(tag)
        self.active += [v for n, v in attrs if n == "href" and v and not v.startswith("#")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(text: str) -> Balance:
    found = Balance()
    found.feed(text)
    found.close()
    assert not found.open
    return found


@settings(max_examples=40, deadline=None)
@given(words=st.text(max_size=60), seconds=st.floats(0, 1e6), held=st.booleans())
def test_whatever_stands_in_a_report_is_shown_and_not_run(words: str, seconds: float, held: bool) -> None:
    one = chapter(
        check(held, seen=words),
        title=words,
        done=(words,),
        records=(Record(what=words, where=words, entry=1),),
        look=(Look(command=words, shows=words),),
        failure=words or None,
        ended_s=seconds,
    )
    found = read(page.page(report(one, machine=words, seconds=seconds)))
    assert not found.active
    assert words.strip() in found.text


def test_a_script_in_a_name_stays_text() -> None:
    found = read(page.page(report(chapter(*BOTH, title="<script>alert(1)</script>"))))
    assert "<script>alert(1)</script>" in found.text
    assert not found.active


def test_what_failed_stands_out_in_every_form(tmp_path: Path) -> None:
    told = report(
        chapter(check(False), check(kind="recovered")), chapter(check(kind="recovered"), key="closing")
    )
    pages.write(told, tmp_path)
    html, text = (tmp_path / pages.HTML).read_text(), (tmp_path / pages.MARKDOWN).read_text()
    assert "NOT DETECTED" in html
    assert "NOT DETECTED" in text
    assert "Not every fault was detected" in html
    assert json.loads((tmp_path / pages.JSON).read_bytes())["passed"] is False
    assert Report.model_validate_json((tmp_path / pages.JSON).read_bytes()) == told


def test_markdown_tables_keep_their_columns() -> None:
    text = markdown.page(report(chapter(check(seen="a | b\nc"), *BOTH)))
    assert "| yes | it is seen | a \\| b c |" in text


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=12), st.integers(1, 10_000))
def test_the_picture_stays_within_its_frame(gaps: list[int], most: int) -> None:
    at, points = 0.0, []
    for number, gap in enumerate(gaps):
        at += gap
        points.append((at, min(number, most)))
    svg = timeline.draw(report(chapter(*BOTH, ended_s=at + 10), merges=tuple(points), seconds=at + 10))
    path = re.search(r'd="([^"]+)"', svg)
    assert path is not None
    for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path[1]):
        assert 0 <= float(x) <= timeline.WIDTH
        assert 0 <= float(y) <= timeline.HEIGHT


class Silent:
    """A teller that tells nobody."""

    def say(self, text: str) -> None: ...
    def waits(self, text: str) -> None: ...
    def begins(self, number: int, of: int, fault: Any) -> None: ...
    def checked(self, check: Check) -> None: ...
    def recorded(self, record: Record) -> None: ...
    def ends(self, chapter: Chapter) -> None: ...


def test_entries_of_the_ledger_come_with_the_command_that_shows_them() -> None:
    stage = Stage(FAULTS[0], Silent(), 1.0)
    stage.recorded("a merge", entry=7)
    stage.recorded("a refusal", entry=12)
    stage.recorded("a log", "core/logs/core.log")
    made = stage.chapter(2.0)
    assert made.look[-1].command == """grep -E '"sequence":(7|12),"type"' ledger.jsonl"""
    assert Stage(FAULTS[0], Silent(), 1.0).chapter(2.0).look == ()


def test_what_breaks_off_is_no_pass_and_nothing_after_it_is(tmp_path: Path) -> None:
    class Scene:
        seconds = 5.0
        places = type("Places", (), {"logs": tmp_path})

    def breaks(scene: Any, on: Stage) -> None:
        for kind in (on.detected, on.recovered):
            kind("something", True, "seen")
        raise NotSeen("the merge did not come within 240 s")

    fault = FAULTS[0].__class__(**{**vars(FAULTS[0]), "play": breaks})
    broken = run._play(Scene(), Silent(), fault, skip=False)  # type: ignore[arg-type]
    assert broken.failure == "the merge did not come within 240 s"
    assert not broken.detected
    skipped = run._play(Scene(), Silent(), fault, skip=True)  # type: ignore[arg-type]
    assert skipped.failure == run.NOT_REACHED
    assert not skipped.passed


@pytest.mark.parametrize("teller", [telling.PlainTeller, telling.RichTeller])
def test_both_ways_of_telling_say_what_was_found(teller: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shown = io.StringIO()
    made = teller(Console(file=shown, width=200)) if teller is telling.RichTeller else teller()
    made.begins(1, 7, FAULTS[0])
    made.waits("a round")
    made.say("killed")
    made.checked(check(False, seen="nothing"))
    made.recorded(Record(what="a merge", where="ledger.jsonl", entry=7))
    made.ends(chapter(check(False), failure="too late"))
    said = shown.getvalue() + capsys.readouterr().err
    for words in (FAULTS[0].title, "killed", "nothing", "ledger entry 7", "NOT DETECTED", "too late"):
        assert words in said


def test_the_faults_are_six_each_with_words_of_its_own() -> None:
    assert len(FAULTS) == 6
    every = (*FAULTS, closing.CLOSING)
    for name in ("key", "title", "does", "expected"):
        assert len({getattr(fault, name) for fault in every}) == 7
    places = [fault.member for fault in FAULTS if fault.member is not None]
    assert sorted(places) == [0, 1, 2, 3, 4]


def test_a_folder_with_something_in_it_is_left_alone(call: Call, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    code, out, err = call("rehearse", "--out", tmp_path)
    assert (code, out) == (2, "")
    assert "exists and is not empty" in err
    assert "hint: give --out another folder" in err
    assert [path.name for path in tmp_path.iterdir() if path.name != "state"] == ["mine.txt"]


def test_an_unknown_fault_names_those_there_are(call: Call, tmp_path: Path) -> None:
    code, out, err = call("rehearse", "--out", tmp_path / "new", "--fault", "earthquake")
    assert (code, out) == (2, "")
    assert "there is no fault 'earthquake'" in err
    assert "lying-core" in err
    assert not (tmp_path / "new").exists()
