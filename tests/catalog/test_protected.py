"""What a community protects is found by its words and hashes, and nothing else is."""

from __future__ import annotations

import hashlib
import json
import time

import pytest

from tapestry.catalog.protected import Protected, Watch
from tapestry.errors import SettingsError

HEAD = 'format = "tapestry.protected"\nversion = 1\n'


def topics(**terms: list[str]) -> Protected:
    """One topic, its terms by language."""
    lines = "".join(f"{language} = {json.dumps(words)}\n" for language, words in terms.items())
    return Protected.parse(f'{HEAD}[[topics]]\nname = "t"\n[topics.terms]\n{lines}'.encode(), "p.toml")


def holding(**fields: list[str]) -> Protected:
    lines = "".join(f"{key} = {json.dumps(words)}\n" for key, words in fields.items())
    return Protected.parse(f'{HEAD}[[holdings]]\nname = "h"\n{lines}'.encode(), "p.toml")


SPOKEN_OF = {
    "a word": ("rain song", "They sang a rain song, twice."),
    "capitals": ("rain song", "RAIN SONG"),
    "ß": ("straße", "STRASSE"),
    "composed otherwise": ("caf\u00e9", "Un cafe\u0301."),
    "wide letters": ("rain", "ｒａｉｎ falls"),
    "over a line's end": ("rain song", "a rain\n   song"),
    "a soft hyphen": ("rain", "ra\u00adin"),
    "at both ends": ("rain", "rain"),
    "beside signs": ("rain", "(rain)-dance"),
    "no letters around signs": ("#rain", "see:#rain!"),
    "Vietnamese": ("bùa chú", "Một Bùa  Chú cổ."),
    "Ukrainian": ("замовляння", "Це ЗАМОВЛЯННЯ."),
    "Hindi": ("की", "राम की किताब"),
    "Persian, joined otherwise": ("می\u200cخواهم", "من میخواهم"),
    "Chinese, in a sentence": ("祖靈", "他說祖靈來了"),
    "Chinese, over a line's end": ("祖靈祭", "他說祖\n靈祭"),
    "Japanese": ("カミ", "そのｶﾐは"),
    "Thai": ("ผีปู่ย่า", "ไหว้ผีปู่ย่าทุกปี"),
    "a Latin word in Japanese": ("SARS", "それはSARSです"),
    "a Latin word behind a Thai vowel": ("SARS", "นี้SARSนี่"),
    "a variant of a Han letter": ("祈雨歌", "在祈\U000e0100雨歌中"),
    "in isolates of direction": ("lied des regens", "Lied \u2066des\u2069 Regens"),
    "an Arabic letter mark": ("أغنية المطر", "أغنية\u061c المطر"),
    "a joiner before a mark": ("caf\u00e9", "cafe\u200d\u0301"),
    "another apostrophe": ("l'Ankou", "de l’Ankou"),
    "another dash": ("Ika-a-Māui", "Te Ika‐a‐Māui"),
    "a later place": ("rain", "train rains rain"),
}
NOT_SPOKEN_OF = {
    "within a word": ("rain", "The train, rains, brain."),
    "with a figure": ("rain", "rain2"),
    "half of it": ("rain song", "rain, then a song"),
    "another vowel sign": ("क", "राम की किताब"),
    "a mark behind": ("rain", "rain\u0301"),
    "nothing": ("rain", ""),
}


@pytest.mark.parametrize("name", SPOKEN_OF)
def test_a_term_is_found(name: str) -> None:
    term, text = SPOKEN_OF[name]
    assert topics(xx=["zzzz", term]).look([text]) == "t"
    assert topics(xx=["zzzz"]).look([text]) is None, "the control: without the term nothing is found"


@pytest.mark.parametrize("name", NOT_SPOKEN_OF)
def test_what_only_looks_like_it_is_not(name: str) -> None:
    term, text = NOT_SPOKEN_OF[name]
    assert topics(xx=[term]).look([text]) is None


def test_a_term_across_two_pieces_is_found_and_what_follows_is_not_given() -> None:
    watch = Watch(topics(en=["rain song"]))
    assert list(watch.through(["a " * 5000 + "rain", " song", "more"])) == ["a " * 5000 + "rain"]
    assert watch.found() == "t"


@pytest.mark.parametrize(
    "pieces",
    [
        ["word\n" * 100 + "rain song\n", "of the hills"],
        ["\t".join(["word"] * 100) + "\train song ", "of\tthe hills"],
        ["rain" + "\n" * 5000, "song of the hills"],
        ["rain" + "\n" * 40, "\n" * 40, "song of the hills"],
        ["x" * 1000 + " rain song of ", "the hills"],
        ["rain song\u200b \u200b", "of the hills"],
    ],
)
def test_a_term_across_pieces_is_found_whatever_blanks_there_are(pieces: list[str]) -> None:
    assert topics(en=["rain song of the hills"]).look(pieces) == "t"
    assert topics(en=["rain song of the hill"]).look(pieces) is None


def test_a_word_that_the_end_of_a_piece_is_cut_in_is_no_other_word() -> None:
    """`rain` is what is kept of `train`."""
    for length in range(60, 90):
        assert topics(en=["rain"]).look(["a train " + "b" * length + " ", "more"]) is None


def test_of_two_topics_in_one_document_the_first_of_the_file_counts() -> None:
    names = [f"t{n}" for n in range(20)]
    file = HEAD + "".join(f'[[topics]]\nname = "{n}"\nterms = {{en = ["w{n}"]}}\n' for n in names)
    text = " ".join(f"w{n}" for n in reversed(names))
    assert Protected.parse(file.encode(), "p.toml").look([text]) == "t0", "whatever this process' hashes are"


def test_a_file_is_known_by_its_name_however_the_letters_are_composed() -> None:
    assert holding(files=["train/caf\u00e9/*"]).look(["x"], "train/cafe\u0301/1.txt") == "h"


def test_documents_are_known_by_the_hash_of_their_text_and_files_by_their_path() -> None:
    digest = hashlib.sha256(b"Ein Brief.").hexdigest()
    assert holding(documents=[digest]).look(["Ein ", "Brief."]) == "h"
    assert holding(documents=[digest]).look(["Ein Brief"]) is None
    assert holding(files=["train/songs/*"]).look(["x"], "train/songs/a/1.txt") == "h"
    assert holding(files=["train/songs/*"]).look(["x"], "train/letters/1.txt") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "format"),
        ("format = ", "is not TOML"),
        (HEAD + "strength = 3", "strength"),
        (HEAD.replace("1", "2"), "version"),
        (HEAD + '[[topics]]\nname = "t"', "terms"),
        (HEAD + '[[topics]]\nname = "t"\nterms = {}', "names no term"),
        (HEAD + '[[topics]]\nname = "t"\nterms = {en = ["..."]}', "without a letter"),
        (HEAD + '[[topics]]\nname = "T t"\nterms = {en = ["a"]}', "is no name"),
        (HEAD + '[[topics]]\nname = "t"\nterms = {English = ["a"]}', "terms.English"),
        (HEAD + '[[holdings]]\nname = "h"', "neither documents nor files"),
        (HEAD + '[[holdings]]\nname = "h"\ndocuments = ["12"]', "documents"),
        (HEAD + '[[holdings]]\nname = "h"\nfiles = ["a"]\n' * 2, "one name"),
        (HEAD + f'[[topics]]\nname = "t"\nterms = {{en = {["w"] * 20_001}}}', "more than 20000 terms"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=r"^p\.toml") as caught:
        Protected.parse(text.encode(), "p.toml")
    assert said in caught.value.message and caught.value.hint


def test_an_error_does_not_repeat_a_term() -> None:
    with pytest.raises(SettingsError) as caught:
        Protected.parse((HEAD + '[[topics]]\nname = "t"\nterms = {en = ["secret", 3]}').encode(), "p.toml")
    assert "secret" not in caught.value.message


def test_many_terms_and_nasty_text_take_no_long_time() -> None:
    words = [f"{'a' * (n % 150)}b{n}" for n in range(5000)]
    protected = topics(en=words, zh=[f"祖{chr(0x4E00 + n)}" for n in range(1000)])
    started = time.process_time()
    assert protected.look(["a" * 1_000_000, "祖 " * 100_000]) is None
    assert time.process_time() - started < 5
