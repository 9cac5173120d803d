"""What every step obeys, and what each of them finds."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tapestry.catalog.protected import Protected
from tapestry.curation import settings
from tapestry.curation.contamination import Contamination, Evaluation
from tapestry.curation.duplicates import SIZE, Duplicates, Near
from tapestry.curation.language import Language
from tapestry.curation.letters import Document, codes
from tapestry.curation.pii import Pii
from tapestry.curation.quality import Quality
from tapestry.curation.step import Look, Step
from tapestry.curation.withhold import Withhold
from tapestry.protocol.canonical import is_name
from tests.curation.made import GERMAN, TEXTS, prose, words

PROTECTED = (
    b'format = "tapestry.protected"\nversion = 1\n[[topics]]\nname = "bread"\nterms = {de = ["Teig"]}\n'
)
SECRET = "zaubertrank@example.org"


def evaluation(folder: Path, *texts: str) -> Evaluation:
    return Evaluation.of(texts, settings.Contamination(), folder)


STEPS: dict[str, Callable[[Path], Step]] = {
    "protected": lambda folder: Withhold(Protected.parse(PROTECTED, "p.toml")),
    "language": lambda folder: Language(settings.Language(), ["vi"]),
    "quality": lambda folder: Quality(settings.Quality()),
    "contamination": lambda folder: Contamination(settings.Contamination(), evaluation(folder, GERMAN)),
    "duplicates": lambda folder: Duplicates(settings.Duplicates(), folder),
    "pii": lambda folder: Pii(settings.Pii()),
}
ODD = [
    "",
    " ",
    "\0",
    "\ufffd" * 300,
    "a",
    "1" * 5000,
    "\u0301" * 50,
    "@" * 3000,
    "\U0010ffff" * 10,
    "a" * 20_000,
]


@pytest.fixture(params=STEPS, scope="module")
def step(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Step:
    return STEPS[request.param](tmp_path_factory.mktemp("scratch"))


def test_a_step_says_what_it_is(step: Step) -> None:
    assert is_name(step.name) and step.version and step.name in STEPS


def test_a_look_depends_on_the_document_alone(step: Step) -> None:
    every = [*TEXTS.values(), *ODD, GERMAN + " " + SECRET]
    looks = [step.look(Document(text)) for text in every]
    assert [step.look(Document(text)) for text in reversed(every)] == looks[::-1]
    assert pickle.loads(pickle.dumps(looks)) == looks, "it can go from one process to another"


def test_nothing_but_text_holds_text(step: Step) -> None:
    look = step.look(Document(f"{GERMAN} {SECRET} {GERMAN}"))
    told = repr((look.why, dict(look.counts), look.language, look.of)) + look.key.decode("latin-1")
    assert "zauber" not in told and "Bäcker" not in told


def test_every_step_finds_something_here_and_nothing_there(step: Step) -> None:
    """Each has a document that it would leave out, and one that it would not."""
    bad = f"{GERMAN} {SECRET}" if step.name != "quality" else "# " * 200
    texts = (bad, bad, TEXTS["vi"])
    why = [step.settle(number, step.look(Document(text))).why for number, text in enumerate(texts)]
    assert why[1] is not None and why[2] is None


def test_letters_know_no_case_no_blanks_and_no_signs() -> None:
    assert Document("Ab, C\u0301!\n9").letters.tolist() == Document("a b ć 9").letters.tolist()
    assert Document("Straße").letters.tolist() == codes("strasse").tolist()


@pytest.mark.parametrize("k", [1, 5, 40])
def test_equal_runs_have_equal_hashes_wherever_they_stand(k: int) -> None:
    text = "".join(words(1, 100))
    runs = Document(text).runs(k)
    parts = [text[at : at + k] for at in range(len(text) - k + 1)]
    assert len(runs) == len(parts)
    of_part: dict[str, int] = {}
    for part, found in zip(parts, runs.tolist(), strict=True):
        assert of_part.setdefault(part, found) == found
    assert len(set(runs.tolist())) == len(set(parts))
    assert Document("xyz" + text).runs(k)[3:].tolist() == runs.tolist()


def test_a_language_is_told_and_another_is_left_out() -> None:
    step = Language(settings.Language(), ["zh-Hant", "vi"])
    for language, text in TEXTS.items():
        why = None if language in ("zh", "vi") else "other-language"
        assert step.look(Document(text)) == Look(language=language, why=why)
    assert step.look(Document("Guten Tag.")) == Look(language="und", counts={"too-short": 1})


def test_with_a_language_that_the_detector_does_not_know_nothing_is_left_out() -> None:
    unknown = Language(settings.Language(), ["vi", "qaa"])
    assert unknown.unknown == ["qaa"]
    assert unknown.look(Document(GERMAN)).why is None, "it may be the language that the model has not learnt"


@pytest.mark.parametrize("language", TEXTS)
def test_good_text_of_every_script_passes(language: str) -> None:
    assert Quality(settings.Quality()).look(Document(TEXTS[language])) == Look()


LINES = [f"{' '.join(words(n, 6))}." for n in range(12)]
POOR = {
    "short": "Nur ein paar Worte.",
    "few-letters": "12/34 (56), 78; 90. " * 20 + prose(1, 14),
    "symbols": "a long enough text with + + = = < > $ $ | | and more letters " * 3,
    "long-words": "x" * 50 + " " + "y" * 60,
    "repeated-lines": "\n".join([*LINES, LINES[0] * 3, *[LINES[0] * 3] * 6]),
    "ellipses": "\n".join(line + ".." for line in LINES),
    "bullets": "\n".join("• " + line for line in LINES),
    "repeated-text": " ".join([prose(1, 30)] * 10),
}


@pytest.mark.parametrize("why", POOR)
def test_poor_text_is_named_by_what_is_wrong(why: str) -> None:
    assert Quality(settings.Quality()).look(Document(POOR[why])).why == why
    assert Quality(settings.Quality()).look(Document(prose(2))).why is None


def test_copies_and_near_copies_are_found_and_the_first_stays(tmp_path: Path) -> None:
    step = Duplicates(settings.Duplicates(), tmp_path)
    text = words(3, 300)
    edited = [*text[:150], "another", *text[151:]]
    half = [*text[:150], *words(4, 150)]
    given = [" ".join(text), "  ".join(text).upper() + "!", " ".join(edited), " ".join(half), prose(5)]
    settled = [step.settle(n, step.look(Document(each))) for n, each in enumerate(given)]
    assert [(each.why, each.of) for each in settled] == [
        (None, None), ("same", 0), ("nearly-same", 0), (None, None), (None, None),
    ]  # fmt: skip
    exact = Duplicates(settings.Duplicates(similarity=1), tmp_path)
    assert [exact.settle(n, exact.look(Document(each))).why for n, each in enumerate(given)] == [
        None, "same", None, None, None,
    ]  # fmt: skip


def test_the_search_in_bands_finds_what_comparing_all_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sketches that share known parts, more than fit into the first table; against a plain loop."""
    monkeypatch.setattr("tapestry.curation.duplicates._FIRST", 64)
    draw = np.random.default_rng(1)
    near, kept = Near(0.8, tmp_path), []
    found, expected = [], []
    for number in range(1000):
        sketch = draw.integers(0, 1 << 32, SIZE, dtype=np.uint32)
        if number % 3 == 2:
            share = draw.choice([0.5, 0.75, 0.9, 0.97])
            of = kept[int(draw.integers(len(kept)))][1]
            sketch = np.where(draw.random(SIZE) < share, of, sketch)
        every = np.array([other for _, other in kept] or [~sketch])
        alike = [kept[at][0] for at in np.flatnonzero((every == sketch).mean(1) >= 0.8)]
        expected.append(min(alike, default=None))
        found.append(near.add(number, sketch))
        if found[-1] is None:
            kept.append((number, sketch))
    assert sum(each is not None for each in expected) > 130
    missed = sum(a != b for a, b in zip(found, expected, strict=True))
    assert missed <= 2, "bands miss one in thousands"


def test_text_of_evaluation_sets_is_found_in_the_middle_of_other_text(tmp_path: Path) -> None:
    step = Contamination(settings.Contamination(), evaluation(tmp_path, GERMAN, TEXTS["zh"]))
    assert step.look(Document(f"{prose(1)} {GERMAN[:90].upper()} {prose(2)}")).why is None, (
        "90 letters of 1500"
    )
    assert step.look(Document(f"{prose(1, 20)} {GERMAN[:150]}\n{prose(2, 20)}")).why == "shared-text"
    assert step.look(Document(f"{prose(1, 2000)} {GERMAN} {prose(2, 2000)}")).why is None
    assert step.look(Document(prose(1, 2000) + " ".join([GERMAN, prose(2), GERMAN]))).why == "shared-text"
    assert step.look(Document(f"前言。{TEXTS['zh'][:40]}")).why == "shared-text"
    assert step.look(Document(prose(3))) == Look()
    shared = step.look(Document(f"{prose(1)} {GERMAN[:90]} {prose(2)}")).counts
    assert shared == {"with-shared-text": 1, "shared-letters": len(Document(GERMAN[:90]).letters)}


def test_short_evaluation_documents_are_counted(tmp_path: Path) -> None:
    found = evaluation(tmp_path, "Too short.", GERMAN)
    assert (found.documents, found.too_short) == (2, 1)
