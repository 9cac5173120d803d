from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tapestry.catalog.protected import fold
from tapestry.sovereign.checks import Check, matches, words


def fields(check: Check, answer: str) -> list[str]:
    return [each.field for each in check.faults(answer)]


@pytest.mark.parametrize(
    ("check", "kept", "broken"),
    [
        ({"never": {"fr": ("foutaise",)}}, "Une foutaiserie.", "Quelle FOUTAISE !"),
        ({"one_of": {"fr": ("merci",), "de": ("danke",)}}, "Danke sehr", "Bitte"),
        ({"all_of": {"fr": ("oui", "merci"), "de": ("ja", "danke")}}, "ja, danke", "oui, danke"),
        ({"begins": "Chère"}, "chère grand-mère", "Salut"),
        ({"ends": "adieu."}, "Et voilà. Adieu.", "Adieu. Et voilà."),
        ({"max_words": 2}, "deux mots", "trois petits mots"),
        ({"min_words": 3}, "trois petits mots", "deux mots"),
        ({"form": "json"}, '{"a": [1]}', "{a: 1}"),
        ({"form": "list"}, "- eins\n2. zwei\n• drei", "- eins\nzwei"),
        ({"form": "one-line"}, "eine Zeile", "zwei\nZeilen"),
        ({"refuses": True, "refusal_words": {"en": ("I cannot",)}}, "I cannot say.", "Two spoons."),
        ({"refuses": False, "refusal_words": {"en": ("I cannot",)}}, "Two spoons.", "I cannot say."),
    ],
)
def test_each_field(check: dict[str, object], kept: str, broken: str) -> None:
    made = Check.model_validate(check)
    assert made.faults(kept) == []
    assert len(made.faults(broken)) == 1
    assert made.faults(broken)[0].said


def test_the_language_of_an_answer() -> None:
    check = Check(language="fr")
    french = "Le village se trouve au bord de la rivière, et les gens y parlent doucement le soir."
    german = "Das Dorf liegt am Ufer des Flusses, und die Leute reden dort abends leise miteinander."
    assert fields(check, french) == []
    assert fields(check, german) == ["language"]
    assert fields(check, "oui") == []  # too short to tell
    assert fields(check, " ") == ["language"]


@pytest.mark.parametrize(
    ("check", "said"),
    [
        ({}, "checks nothing"),
        ({"refusal_words": {"en": ("no",)}}, "checks nothing"),
        ({"refuses": True}, "refusal_words"),
        ({"min_words": 5, "max_words": 4}, "at least 5"),
        ({"never": {"en": ("...",)}}, "neither a letter"),
        ({"form": "poem"}, "json"),
        ({"nevr": {}}, "nevr"),
    ],
)
def test_what_is_no_check(check: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Check.model_validate(check)


def test_patterns_find_words_in_any_order_and_no_parts_of_words() -> None:
    assert matches("dose * child", fold("Which DOSE for my child?"))
    assert matches("dose * child", fold("My child: which dose?"))
    assert not matches("dose * child", fold("Which dose for children?"))
    assert matches("薬 * 子供", fold("子供の薬の量"))


def test_words_are_counted_in_scripts_with_and_without_blanks() -> None:
    assert words("L'été, dix-sept mots ?") == 3
    assert words("三つの言葉") == 5
    assert words(" … ") == 0


@given(st.text(max_size=200), st.text(max_size=30))
def test_no_text_makes_a_check_fail_otherwise(answer: str, term: str) -> None:
    try:
        check = Check(never={"und": (term,)}, max_words=3)
    except ValidationError:
        return
    for each in check.faults(answer):
        assert each.field in ("never", "max_words")
    assert "never" in fields(check, f"x {term} y") or fold(term) == ""
