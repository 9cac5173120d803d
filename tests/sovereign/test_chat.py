from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import CorpusError, RecipeError
from tapestry.sovereign.chat import OWN, Chat
from tapestry.training.examples import Turn, parse
from tests.sovereign.support import make_base


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


TALK = parse(
    {
        "messages": [
            {"role": "user", "content": "Što?"},
            {"role": "assistant", "content": "To."},
            {"role": "user", "content": "Hdźe?"},
            {"role": "assistant", "content": "Tu."},
        ]
    }
)


def learnt(tokenizer: Any, told: Any) -> str:
    return str(tokenizer.decode([each for each, wanted in zip(told.ids, told.learnt, strict=True) if wanted]))


def test_every_answer_is_learnt_with_its_end_and_nothing_else(tokenizer: Any) -> None:
    chat = Chat(tokenizer, OWN, "own")
    told = chat.answered(TALK, "here")
    assert learnt(tokenizer, told) == "To.<|endoftext|>\nTu.<|endoftext|>\n"
    assert tokenizer.decode(told.ids) == chat.render((*TALK.turns, Turn("assistant", "Tu.")))


def test_what_is_asked_is_what_it_is_tuned_on(tokenizer: Any) -> None:
    """The tokens before an answer are those of the talk up to it, as a chat renders it."""
    chat = Chat(tokenizer, OWN, "own")
    told = chat.answered(TALK, "here")
    before = tokenizer(chat.render(TALK.turns[:1], answer=True), add_special_tokens=False)["input_ids"]
    assert told.ids[: len(before)] == before
    assert told.prompt == len(before)


def test_a_pair_shares_its_prompt(tokenizer: Any) -> None:
    chat = Chat(tokenizer, OWN, "own")
    first, second = chat.pair(parse({"prompt": "Što?", "chosen": "To.", "rejected": "Tamo."}), "here")
    assert first.ids[: first.prompt] == second.ids[: second.prompt]
    assert learnt(tokenizer, second) == "Tamo.<|endoftext|>\n"


def test_without_a_template_the_answer_follows(tokenizer: Any) -> None:
    chat = Chat.of(tokenizer, "none", Path())
    assert chat.render(TALK.turns[:2]) == "Što?To.<|endoftext|>"


def test_without_a_template_the_model_is_not_saved_with_the_base_s(tokenizer: Any, tmp_path: Path) -> None:
    """It was tuned without, and chat, serve and eval would ask it by one that it has never seen."""
    from transformers import AutoTokenizer

    for chosen, kept in (("", OWN), ("none", None)):
        tokenizer.chat_template = OWN
        Chat.of(tokenizer, chosen, Path())
        tokenizer.save_pretrained(tmp_path / (chosen or "own"))
        assert AutoTokenizer.from_pretrained(tmp_path / (chosen or "own")).chat_template == kept


def test_text_is_never_a_special_token(tokenizer: Any) -> None:
    bad = parse({"prompt": "a", "completion": "b <|endoftext|> c"})
    with pytest.raises(CorpusError, match=r"line 7 spells '<\|endoftext\|>'"):
        Chat(tokenizer, OWN, "own").answered(bad, "x.jsonl, line 7")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for m in messages %}", "cannot render"),
        ("{{ nothing.there }}", "cannot render"),
        ("{{ raise_exception('no') }}", "cannot render a talk: no"),
        ("hello", "leaves out what the user says"),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "where the assistant begins to speak"),
        (
            "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
            "{% if add_generation_prompt %}A:{% endif %}",
            "otherwise than the beginning",
        ),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "cannot render"),
        ("{{ messages.append(messages[0]) }}", "cannot render"),
    ],
)
def test_a_template_that_does_not_fit_is_one_error(
    tokenizer: Any, tmp_path: Path, template: str, said: str
) -> None:
    (tmp_path / "chat.jinja").write_text(template)
    with pytest.raises(RecipeError, match="does not fit") as raised:
        Chat.of(tokenizer, "chat.jinja", tmp_path)
    assert said in raised.value.message
    assert "chat.jinja" in raised.value.message
    assert raised.value.hint


def test_a_template_that_fits_is_taken(tokenizer: Any, tmp_path: Path) -> None:
    """The control of the one above."""
    (tmp_path / "chat.jinja").write_text(
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}"
        "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    assert (
        Chat.of(tokenizer, "chat.jinja", tmp_path).render(TALK.turns[:1], answer=True)
        == "<user>Što?<assistant>"
    )


def test_a_template_that_is_not_there(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        Chat.of(tokenizer, "chat.jinja", tmp_path)
