"""Releases and derivatives as a tree, whatever owners say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tapestry.protocol.derivative import FIELDS, DerivativeRecord, ShownBase, ShownDerivative
from tapestry.web.released import Branch, File, repository, seen_by, tree


def record(name: str, **shown: Any) -> DerivativeRecord:
    fields = {**dict.fromkeys(FIELDS), **shown}
    return DerivativeRecord(
        consortium="c" * 64,
        member="ada",
        node="ada-1",
        derivative=name,
        at="2026-05-01T12:00:00.000Z",
        shown=ShownDerivative(**fields),
        public=(),
    )


def on(state: str | None) -> ShownBase:
    return ShownBase(weights="e" * 64, state=state, run=None, round=None)


def drawn(branches: tuple[Branch, ...]) -> list[Any]:
    return [[each.record.derivative, *drawn(each.children)] for each in branches]


def test_what_was_carried_over_hangs_below_what_it_was() -> None:
    records = [
        record("law", base=on("1" * 64), lineage="a" * 64),
        record("law-2", base=on("2" * 64), lineage="b" * 64, parent="a" * 64),
        record("law-3", lineage="c" * 64, parent="b" * 64),
        record("health", base=on("1" * 64), lineage="d" * 64, parent="f" * 64),  # a parent that is not shown
        record("secret"),
    ]
    trunks = tree(records, {"1" * 64: "one"})
    assert [(each.name, drawn(each.branches)) for each in trunks] == [
        ("one", [["health"], ["law", ["law-2", ["law-3"]]]]),
        ("", [["secret"]]),
    ]


def test_two_that_name_each_other_end() -> None:
    records = [
        record("a", lineage="a" * 64, parent="b" * 64),
        record("b", lineage="b" * 64, parent="a" * 64),
        record("self", lineage="c" * 64, parent="c" * 64),
    ]
    found = tree(records, {})
    assert [drawn(each.branches) for each in found] == [[["self"]]]


def test_files_are_those_of_the_newest_list(tmp_path: Path) -> None:
    folder = tmp_path / "metadata"
    folder.mkdir()
    for version, size in ((9, 1), (10, 2)):
        told = {"length": size, "hashes": {"sha256": "a" * 64}}
        value = {"signed": {"targets": {"one/model.safetensors": told, "releases.json": told}}}
        (folder / f"{version}.targets.json").write_text(json.dumps(value))
    assert repository(tmp_path) == {"one": (File("model.safetensors", 2, "a" * 64),)}


def test_a_folder_that_is_no_repository_names_nothing(tmp_path: Path) -> None:
    assert repository(tmp_path) == {}
    folder = tmp_path / "metadata"
    folder.mkdir()
    assert repository(tmp_path) == {}
    wrong: tuple[object, ...] = ([], {"signed": 1}, {"signed": {"targets": {"a/b": {"length": 1}}}})
    for value in wrong:
        (folder / "1.targets.json").write_text(json.dumps(value))
        assert repository(tmp_path) == {}
    (folder / "1.targets.json").write_bytes(b"[" * 100_000)
    assert repository(tmp_path) == {}


def test_the_public_sees_what_an_owner_calls_public() -> None:
    one = record("law", licence="Apache-2.0", level="national").model_copy(update={"public": ("licence",)})
    (shown,) = seen_by([one], insider=False)
    assert shown.shown is not None and (shown.shown.licence, shown.shown.level) == ("Apache-2.0", None)
    assert [*seen_by([one], insider=True)] == [one]
