from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.catalog.protected import Protected
from tapestry.errors import CorpusError
from tapestry.protocol.canonical import sha256
from tapestry.training.documents import documents, examples_of
from tapestry.training.examples import NotAnExample, Turn, parse
from tapestry.training.holding import hold
from tapestry.training.withheld import kept_out, withheld

ANSWER = {"prompt": "Što?", "completion": "To."}
PAIR = {"prompt": [{"role": "user", "content": "Što?"}], "chosen": "To.", "rejected": "Tamo."}
TALK = {
    "messages": [
        {"role": "system", "content": "Budź krótki."},
        {"role": "user", "content": "Što?"},
        {"role": "assistant", "content": "To."},
    ]
}


def test_three_shapes_are_read() -> None:
    assert parse(ANSWER).turns == (Turn("user", "Što?"),)
    assert parse(ANSWER).answers == ("To.",)
    assert parse(PAIR).kind == "pair"
    assert parse(TALK).turns[0].role == "system"
    assert parse(TALK).text == "Budź krótki.\nŠto?\nTo."


def test_its_document_is_canonical_and_holds_only_its_fields() -> None:
    assert parse({**ANSWER, "source": 7}).document == '{"completion":"To.","prompt":"Što?"}'


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"prompt": "a"}, "no field `chosen`"),
        ({"prompt": "a", "chosen": "b"}, "no field `rejected`"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "are the same"),
        ({"prompt": "a", "completion": 1}, "`completion` is no string"),
        ({"prompt": "", "completion": "b"}, "`prompt` is no string"),
        ({"messages": []}, "`messages` is no list"),
        ({"messages": [{"role": "user", "content": "a"}]}, "does not end with a message of the assistant"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "nothing that is asked"),
        ({"messages": [{"role": "judge", "content": "a"}]}, "a role that is none"),
        ({"messages": [{"role": "user"}]}, "has not just `role` and `content`"),
        ({"prompt": "a\ud800", "completion": "b"}, "half a surrogate"),
    ],
)
def test_what_is_wrong_is_named(value: Any, said: str) -> None:
    with pytest.raises(NotAnExample, match=said):
        parse(value)


def write(folder: Path, *rows: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "valid"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_line_of_the_wrong_shape_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, ANSWER, {"prompt": "a"}) / "train.jsonl"
    with pytest.raises(CorpusError, match=r"train\.jsonl, line 2: no field `chosen`") as raised:
        list(examples_of(path))
    assert raised.value.hint is not None
    assert "completion" in raised.value.hint


def test_examples_are_hashed_for_a_card_and_never_read_as_text(tmp_path: Path) -> None:
    folder = write(tmp_path, ANSWER, PAIR)
    assert hold(folder).content.documents == 4
    with pytest.raises(CorpusError, match="no field `text`"):
        list(documents(folder / "train.jsonl"))


def test_text_keeps_the_hash_it_had(tmp_path: Path) -> None:
    text = write(tmp_path / "a", {"text": "x"})
    both = write(tmp_path / "b", {"text": "x", "prompt": "y", "completion": "z"})
    assert hold(text).content == hold(both).content


TOPICS = """\
format = "tapestry.protected"
version = 1

[[topics]]
name = "castle"
terms = { hsb = ["hród"] }

[[holdings]]
name = "letters"
documents = ["%s"]
"""


def test_what_keeps_an_example_out_is_found_in_what_it_says(tmp_path: Path) -> None:
    """Also at the beginning of a line, where its canonical JSON has `\\nhród`."""
    held = parse({"prompt": "Z lista?", "completion": "Haj."})
    data = (TOPICS % sha256(held.document.encode())).encode()
    protected = Protected.parse(data, "protected.toml")
    said = {"prompt": "Što?\nhród", "completion": "To."}
    folder = write(tmp_path, ANSWER, said, held.fields)
    assert withheld(folder, protected) == {"castle": 2, "letters": 2}
    assert kept_out(parse(ANSWER), protected, "train.jsonl") is None


@given(
    st.recursive(
        st.none() | st.text() | st.integers(),
        lambda each: (
            st.lists(each)
            | st.dictionaries(
                st.sampled_from(
                    ["prompt", "messages", "role", "content", "chosen", "rejected", "completion"]
                ),
                each,
            )
        ),
    )
)
def test_any_value_is_an_example_or_not(value: Any) -> None:
    try:
        found = parse(value)
    except NotAnExample:
        return
    assert found.answers
    assert parse(json.loads(found.document)) == found
