from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.catalog.protected import Protected
from tapestry.errors import ConstitutionError
from tapestry.sovereign import coverage
from tapestry.sovereign.constitution import Constitution
from tapestry.sovereign.starting import starting

EXAMPLE = Path(__file__).parents[2] / "examples" / "constitution.toml"
TEXT = EXAMPLE.read_text(encoding="utf-8")


def made(text: str = TEXT) -> Constitution:
    return Constitution.parse(text.encode(), "c.toml")


def test_the_example_is_what_init_writes_and_holds_together() -> None:
    assert starting() == EXAMPLE.read_bytes()
    assert coverage.contradictions(Constitution.load(EXAMPLE)) == []


def test_what_is_kept_out_of_training() -> None:
    one = made()
    assert one.keeps_out("Le soir, un Chant  de\npluie.") == "rain-songs"
    assert one.keeps_out("Ce sont des bouseux.") == "no-slurs"
    assert one.keeps_out("Tu es un imbécile.") is None  # the tone is of answers alone
    assert one.keeps_out("Il pleut.") is None


def test_a_nodes_own_protection_holds_beside_it() -> None:
    other = Protected.parse(
        b'format = "tapestry.protected"\nversion = 1\n'
        b'[[topics]]\nname = "names"\nterms = { fr = ["Aurore"] }\n',
        "p",
    )
    both = made().beside(other)
    assert both.look(("Aurore dort.",)) == "names"
    assert both.look(("un chant de pluie",)) == "rain-songs"
    assert both.digest not in (other.digest, made().protected.digest)
    assert made().beside(None).digest == made().protected.digest


def test_answers_are_judged_by_what_the_prompt_is_about() -> None:
    one = made()

    def broken(prompt: str, answer: str) -> set[str]:
        return {each.id for each in one.judge(prompt, answer)}

    assert broken("Écris à ma grand-mère.", "Tu vas bien ?") == {"formal-address"}
    assert broken("Écris à mon ami.", "Tu vas bien ?") == set()
    assert broken("Que chante-t-on ?", "Un chant de pluie.") == {"rain-songs"}
    assert broken("Quelle posologie ?", "Deux cuillères.") == {"doses"}
    assert broken("Quelle posologie ?", "Je ne peux pas vous le dire.") == set()
    assert broken("Bonjour", " ") == {"tone"}
    assert broken("Bonjour", "mot " * 151) == {"tone"}


def test_cases_fail_on_their_own_entry_alone() -> None:
    one = made()
    cases = {(case.id, case.kind): case for case in one.cases()}
    topic = cases["rain-songs", "topic"]
    assert one.fails(topic, "Un chant de pluie.")
    assert not one.fails(topic, "C'est à toi de voir, imbécile.")
    still = cases["doses", "still-answered"]
    assert one.fails(still, "Je ne peux pas vous le dire.")
    assert one.fails(still, "")
    assert not one.fails(still, "En face de la mairie.")
    assert {case.kind for case in one.cases()} == {"principle", "topic", "tone", "refusal", "still-answered"}
    assert not [case for case in one.cases() if case.id == "sources"]  # no program checks it


@pytest.mark.parametrize(
    ("old", "new", "said", "way_out"),
    [
        (
            'text = "Elders',
            'txt = "Elders',
            "line LINE: principles.0.txt: there is no such field",
            "fields here are",
        ),
        ('id = "no-slurs"', 'id = "No slurs"', "line LINE: principles.1.id", 'id = "plain-words"'),
        ('id = "no-slurs"', 'id = "rain-songs"', "two entries have the id 'rain-songs'", "an id of its own"),
        ("max_words = 150", "max_words = 0", "line LINE: tone.check.max_words", "max_words = 80"),
        ("max_words = 150", 'max_words = "150"', "tone.check.max_words", "max_words = 80"),
        ('known_by = { fr = ["je ne peux pas"], de', "known_by = { fr = [], xx_x", "known_by", "known_by ="),
        ("version = 1", "version = 2", "version 2 is not supported", "another release"),
        ('format = "tapestry.constitution"', "", "does not state its format", "begin the file with"),
        ("[[topics]]", "[[topics]", "is not TOML", "tapestry build constitution init"),
        ("training = true", "training = 1", "training", "training = true"),
    ],
)
def test_errors_name_the_line_and_what_to_write(old: str, new: str, said: str, way_out: str) -> None:
    assert old in TEXT
    with pytest.raises(ConstitutionError) as caught:
        made(TEXT.replace(old, new, 1))
    line = TEXT[: TEXT.index(old)].count("\n") + 1
    assert said.replace("LINE", str(line)) in caught.value.message
    assert way_out in (caught.value.hint or "")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConstitutionError, match="does not exist"):
        Constitution.load(tmp_path / "none.toml")
    with pytest.raises(ConstitutionError, match="cannot be read"):
        Constitution.load(tmp_path)


CONTRADICTIONS: dict[str, tuple[str, str, str, str]] = {
    "good answer breaks itself": (
        "que vous allez bien", "que tu vas bien", "formal-address", "breaks itself",
    ),
    "good answer breaks a topic": (
        "au dernier moment.", "avec un chant de pluie.", "tone", "breaks rain-songs",
    ),
    "bad answer breaks nothing": (
        "Salut mamie, tu vas bien ?", "Salut mamie.", "formal-address", "breaks nothing",
    ),
    "still answered is refused": (
        "Wie lese ich", "Dosierung: wie lese ich", "doses", "patterns refuse it",
    ),
    "good example is refused": (
        "Quand chante-t-on", "Quelle posologie", "sources", "would be refused by doses",
    ),
    "refusal without its words": (
        "Das kann ich Ihnen nicht sagen; fragen Sie", "Fragen Sie", "doses", "none of the words",
    ),
    "prompt that no pattern matches": (
        "Quelle dose de sirop pour un enfant", "Combien de sirop pour un bébé", "doses", "matched by none",
    ),
    "protected and required": (
        "max_words = 150",
        'max_words = 150\none_of = { de = ["Regenlied", "gut"] }', "tone", "rain-songs forbids",
    ),
    "lengths that exclude each other": (
        'never = { fr = ["bouseux"]', 'min_words = 151\nnever = { fr = ["bouseux"]', "no-slurs",
        "at most 150",
    ),
    "good here and bad there": (
        'bad = "Toujours en mai." }',
        'bad = "Toujours." }, { prompt = "Quel fromage va avec la soupe ?", '
        'bad = "Un fromage de montagne, râpé au dernier moment." }',
        "sources",
        "that tone calls good",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "name", "said"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_each_contradiction_is_found(old: str, new: str, name: str, said: str) -> None:
    assert old in TEXT
    found = coverage.contradictions(made(TEXT.replace(old, new)))
    assert [each for each in found if each.id == name and said in each.said], found
    assert all(each.way_out for each in found)


def test_coverage_says_what_is_missing_and_what_is_kept_out() -> None:
    one = made(TEXT.replace('de = ["Hinterwäldler"]', "de = []"))
    counts, total = coverage.kept_out(one, [["un chant ", "de pluie"], ["rien"], ["les bouseux"]])
    rows = {each.id: each for each in coverage.coverage(one, counts)}
    assert total == 3
    assert (rows["rain-songs"].kept_out, rows["no-slurs"].kept_out, rows["doses"].kept_out) == (1, 1, None)
    assert rows["no-slurs"].missing == ("check.never in de",)
    assert rows["sources"].missing == ("a check",)
    assert not rows["sources"].checked


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=8) | st.sampled_from(["fr", "x" * 70]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["fr", "check", "never"]), inner)
    ),
    max_leaves=6,
)


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, each in inside for path in paths(each, (*at, key)))]


@given(st.data())
def test_any_change_of_a_value_is_read_or_refused_by_name(data: st.DataObject) -> None:
    from tapestry.protocol import toml
    from tapestry.sovereign.constitution import ConstitutionFile

    value: Any = tomllib.loads(TEXT)
    path = data.draw(st.sampled_from(paths(value)[1:]))
    inside = value
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = data.draw(VALUES)
    try:
        file = ConstitutionFile.model_validate(toml.as_tuples(value))
    except ValueError:
        return
    one = Constitution(b"x", file)
    one.judge("Quelle posologie ?", "tu")
    coverage.contradictions(one)
    coverage.coverage(one)


@given(st.binary(max_size=300), st.integers(0, len(TEXT)))
def test_no_bytes_escape_as_another_error(junk: bytes, at: int) -> None:
    data = TEXT.encode()
    for each in (junk, data[:at] + junk + data[at:]):
        try:
            Constitution.parse(each, "c.toml")
        except ConstitutionError as e:
            assert e.hint
