"""Documents go through all steps in their order, whatever the number of processes."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest

from tapestry.catalog.content import Tally
from tapestry.curation import pipeline as pipeline_module
from tapestry.curation import stages as stages_module
from tapestry.curation.contamination import Evaluation
from tapestry.curation.pipeline import Given, Pipeline, batches
from tapestry.curation.report import lineage, report
from tapestry.curation.settings import CurationSettings
from tapestry.curation.stages import Request
from tapestry.errors import ProcessDied, SettingsError
from tests.curation.made import GERMAN, TEXTS, prose, words

PROTECTED = (
    b'format = "tapestry.protected"\nversion = 1\n[[topics]]\nname = "bread"\nterms = {de = ["Teig"]}\n'
    b'[[holdings]]\nname = "songs"\nfiles = ["train/songs*"]\n'
)
NO_LANGUAGE = b'[language]\naction = "off"\n'
DOCUMENTS = [
    *(Given("train.jsonl", prose(n)) for n in range(30)),
    Given("train.jsonl", prose(3).upper()),
    Given("train.jsonl", "kurz"),
    Given("train.jsonl", GERMAN),
    Given("train.jsonl", TEXTS["uk"] + " mail@example.org"),
    Given("train/songs.txt", prose(40), "songs"),
    Given("valid.jsonl", " ".join([*words(5, 119), "other"])),
    Given("valid.jsonl", TEXTS["vi"]),
]
LEFT_OUT = {30: "same", 31: "short", 32: "bread", 34: "songs", 35: "nearly-same", 36: "shared-text"}


def request(scratch: Path, settings: bytes = NO_LANGUAGE, **changed: Any) -> Request:
    given = CurationSettings.parse(settings, "s.toml")
    found = Evaluation.of([TEXTS["vi"]], given.contamination, scratch)
    return Request(
        **{
            "settings": given,
            "languages": (),
            "protected": PROTECTED,
            "evaluation": found,
            "scratch": scratch,
            **changed,
        }
    )


def tally(texts: list[str]) -> Tally:
    found = Tally()
    for text in texts:
        found.take([text])
    return found


def test_what_is_left_out_is_counted_and_the_roots_are_those_of_the_documents(tmp_path: Path) -> None:
    made = Pipeline(request(tmp_path), 1)
    results = list(made.run(iter(DOCUMENTS)))
    assert [given for given, _ in results] == DOCUMENTS
    assert {n for n, (_, text) in enumerate(results) if text is None} == LEFT_OUT.keys()
    of_reason = {why: each.place for told in made.told for each in told.examples for why in [each.why]}
    assert of_reason == {
        "bread": "train.jsonl:33", "songs": "train/songs.txt:1", "short": "train.jsonl:32",
        "shared-text": "valid.jsonl:2", "same": "train.jsonl:31", "nearly-same": "valid.jsonl:1",
        "personal-data": "train.jsonl:34",
    }  # fmt: skip
    same = [each for told in made.told for each in told.examples if each.why == "same"]
    assert same[0].of == "train.jsonl:4"
    assert made.before.content() == tally([given.text for given in DOCUMENTS]).content()
    stay = [text for _, text in results if text is not None]
    assert made.after.content() == tally(stay).content()
    steps = lineage(made)
    assert [step.name for step in steps.steps] == [
        "protected",
        "quality",
        "contamination",
        "duplicates",
        "pii",
    ]
    assert [step.before.documents for step in steps.steps] == [37, 35, 34, 33, 31]
    assert steps.result.root == tally(stay).content().root
    assert type(steps).from_bytes(steps.to_bytes(), "l.json") == steps


def test_the_result_does_not_depend_on_the_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_module, "BATCH_DOCUMENTS", 3)
    one, two = Pipeline(request(tmp_path), 1), Pipeline(request(tmp_path), 2)
    assert list(one.run(iter(DOCUMENTS * 3))) == list(two.run(iter(DOCUMENTS * 3)))
    assert report(one, []) == report(two, [])
    assert lineage(one).to_bytes() == lineage(two).to_bytes()


def test_a_report_holds_no_text(tmp_path: Path) -> None:
    made = Pipeline(request(tmp_path), 1)
    list(made.run(iter(DOCUMENTS)))
    told = repr(report(made, [])) + lineage(made).to_bytes().decode()
    for word in ("mail@", "Bäcker", "kurz", "Teig", words(0, 1)[0]):
        assert word not in told


def test_a_step_that_only_reports_leaves_nothing_out(tmp_path: Path) -> None:
    settings = NO_LANGUAGE + b"".join(
        b'[%s]\naction = "report"\n' % name for name in (b"quality", b"contamination", b"duplicates")
    )
    made = Pipeline(request(tmp_path, settings, protected=b""), 1)
    assert [text for _, text in made.run(iter(DOCUMENTS))] == [given.text for given in DOCUMENTS]
    reasons = {why for told in made.told for why in told.reasons}
    assert {"short", "shared-text", "same", "nearly-same"} <= reasons


def test_replaced_text_is_what_the_last_root_is_of(tmp_path: Path) -> None:
    made = Pipeline(request(tmp_path, NO_LANGUAGE + b"[pii]\nredact = true\n"), 1)
    stay = [text for _, text in made.run(iter(DOCUMENTS)) if text is not None]
    assert any(text.endswith("[email]") for text in stay)
    assert made.after.content() == tally(stay).content()
    assert made.told[-2].after.content() != made.after.content()


def test_another_limit_is_another_digest_of_settings(tmp_path: Path) -> None:
    one = lineage(Pipeline(request(tmp_path), 1)).steps
    two = lineage(Pipeline(request(tmp_path, NO_LANGUAGE + b"[quality]\nmin_letters = 61\n"), 1)).steps
    assert [a.settings == b.settings for a, b in zip(one, two, strict=True)] == [
        True,
        False,
        True,
        True,
        True,
    ]
    assert one[0].settings == hashlib.sha256(PROTECTED).hexdigest()


def test_few_documents_are_in_memory_at_a_time() -> None:
    drawn = 0

    def many() -> Any:
        nonlocal drawn
        for _ in range(10_000):
            drawn += 1
            yield Given("train.jsonl", "x" * 5000)

    first = next(batches(many()))
    assert drawn == len(first) < 100


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[quality]\nstrength = 1", "quality.strength"),
        ("[langauge]", "langauge"),
        ("[language]\naction = 'maybe'", "language.action"),
        ("[duplicates]\nsimilarity = 2.0", "duplicates.similarity"),
        ("[quality", "is not TOML"),
        ("[quality]\nmax_symbol_share = nan", "max_symbol_share"),
    ],
)
def test_wrong_settings_are_named(text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        CurationSettings.parse(text.encode(), "s.toml")
    assert caught.value.message.startswith("s.toml")


@pytest.mark.parametrize("library", ["py3langid", "rensa"])
def test_a_missing_library_is_one_typed_error(
    tmp_path: Path, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(SettingsError, match=library) as caught:
        Pipeline(request(tmp_path, b""), 1)
    assert caught.value.hint is not None and "tapestry[curation]" in caught.value.hint


def test_a_dead_worker_is_a_typed_error(tmp_path: Path) -> None:
    two = Pipeline(request(tmp_path), 2)
    for path in tmp_path.glob("runs-*"):
        path.unlink()  # so that no worker can begin
    with pytest.raises(ProcessDied) as caught:
        list(two.run(iter(DOCUMENTS)))
    assert caught.value.hint


def test_steps_that_are_off_are_not_there(tmp_path: Path) -> None:
    names = ("language", "quality", "contamination", "duplicates", "pii")
    off = "".join(f'[{name}]\naction = "off"\n' for name in names).encode()
    assert stages_module.stages(request(tmp_path, off, protected=b"")) == []
    made = Pipeline(request(tmp_path, off, protected=b""), 1)
    assert [text for _, text in made.run(iter(DOCUMENTS))] == [given.text for given in DOCUMENTS]
    assert lineage(made).steps == () and lineage(made).result == lineage(made).source
