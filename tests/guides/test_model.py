"""Pages about a model of one's own: its values, evaluation, use, formats, the next base, the registry."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.federation.support import free_port
from tests.guides.pages import ROOT
from tests.guides.typist import Typist, scene
from tests.sovereign import evaluated, made, support

TYPES = {
    "docs/guides/constitution.md": (),
    "docs/guides/evaluation.md": (),
    "docs/guides/survey.md": (),
    "docs/guides/use-a-model.md": (),
    "docs/guides/derivatives.md": (),
}
ADAPTER = """
[[stage]]
kind = "{kind}"
data = "{data}"
steps = 2
learning_rate = 1e-3
batch = 2
sequence_length = {length}
checkpoint_steps = 2
lora = {{ rank = 4, alpha = 8.0 }}
"""
PORT = "8440"


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_model_of_ones_own_as_the_guides_tell_it(tmp_path: Path) -> None:
    home = tmp_path / "acme"
    home.mkdir()
    endpoint = free_port()
    exchanged = {
        "tapestry serve ./hsb": f"tapestry serve ./hsb --port {endpoint}",
        "--host 192.0.2.10": "--host 0.0.0.0",
        "tapestry-demo/model ": "./base ",
        "tapestry eval ./": "tapestry eval --threads 1 --answer-tokens 12 --max-bytes 5000 ./",
        "--out pairs.jsonl": "--out pairs.jsonl --tokens 12 --answers 2 --threads 1",
    }
    with scene(tmp_path, TYPES, exchanged=exchanged) as hand:
        finished(home)
        values(hand)
        figures(hand, home)
        used(hand, home, endpoint)
        afterwards(hand, home)


def finished(home: Path) -> None:
    """A build `hsb` of acme: one adapter on `base`, which has learned to answer."""
    (home / "examples").symlink_to(ROOT / "examples")
    support.make_base(home / "base")
    made.changed(home / "base", home / "base-2", made.noise(5))
    support.make_base(home / "alone", seed=2)
    support.give_card(
        home / "cards", support.write_lines(home / "texts", support.texts()), "texts", "private-cpt"
    )
    support.give_card(
        home / "cards", support.write_lines(home / "answers", support.answers()), "answers", "sft"
    )
    head = support.HEAD.replace('"hsb-1"', '"hsb"').replace('"domowina"', '"acme"')
    stages = [("cpt", "../texts", 32), ("sft", "../answers", 128)]
    recipe = head + "".join(ADAPTER.format(kind=k, data=d, length=n) for k, d, n in stages)
    code, status = support.run(support.make_build(home / "hsb", recipe))
    assert code == 0, status
    (home / "build").symlink_to("hsb")


def values(hand: Typist) -> None:
    page = "docs/guides/constitution.md"
    said = hand.section(page, "Begin", at="acme")
    assert said
    hand.section(page, "What it does", at="acme")
    assert (hand.root / "acme" / "pairs.jsonl").is_file()


def figures(hand: Typist, home: Path) -> None:
    for language, seed in (("fr", 1), ("de", 2)):
        evaluated.corpus(home / "corpora" / language, seed=seed)
    asked = [{"prompt": f"Say {word}.", "check": {"max_words": 20}} for word in support.WORDS]
    evaluated.jsonl(home / "instructions.jsonl", asked)
    evaluated.jsonl(home / "held-out.jsonl", support.pairs(4))
    hand.section("docs/guides/evaluation.md", "Evaluating a build", at="acme")
    report = json.loads((home / "hsb" / "eval" / "report.json").read_bytes())
    assert report and (home / "hsb" / "eval" / "report.html").is_file()
    hand.section("docs/guides/survey.md", "What survey figures mean, and what they do not", at="acme")
    assert (home / "report" / "report.html").is_file()


def used(hand: Typist, home: Path, endpoint: int) -> None:
    page = "docs/guides/use-a-model.md"
    said = hand.section(page, "Talk to it", at="acme")
    assert json.loads(said[said.index("{") :])["answer"]
    hand.section(page, "Let programs ask it", at="acme")
    text = (ROOT / page).read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ask = program.replace(":8000/", f":{endpoint}/")
    done = subprocess.run(
        [sys.executable, "-c", ask], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    hand.section(page, "Who can reach it", at="acme")
    refused = subprocess.run(
        [sys.executable, "-c", ask], capture_output=True, text=True, timeout=100, check=False
    )
    assert "AuthenticationError" in refused.stderr
    token = (home / "token").read_text().strip()
    ask = ask.replace('api_key="none"', f'api_key="{token}"')
    subprocess.run([sys.executable, "-c", ask], check=True, timeout=100)
    hand.end_all()


def afterwards(hand: Typist, home: Path) -> None:
    page = "docs/guides/derivatives.md"
    hand.words("tapestry member init ./acme --name acme", at="acme")
    hand.section(page, "For other programs", at="acme")
    assert (home / "hsb" / "export" / "gguf" / "signatures" / "acme.sig").is_file()
    evaluated.jsonl(home / "held-out.jsonl", support.texts(12))
    evaluated.jsonl(home / "own.jsonl", support.texts(24)[12:])
    support.write_lines(home / "held-out", support.texts(24), valid=12)
    hand.section(page, "Onto the next base", at="acme")
    hand.words(
        f'tapestry core init ./core --title "Registry" --port {PORT}\ntapestry core serve ./core\n'
        "tapestry core invite ./core acme > token-acme\n"
        "tapestry node init ./node --member ./acme --name acme-1 --corpus ./texts --residency DE\n"
        f"tapestry node join ./node --member ./acme --core http://127.0.0.1:{PORT} "
        "--invitation $(head -n 1 token-acme)\n",
        at="acme",
    )
    hand.next(page, at="acme", begins="tapestry build publish")
    hand.words("tapestry build publish ./hsb --node ./node --figure bits-per-byte\n", at="acme")
    said = hand.next(page, at="acme")
    assert "acme/hsb" in said and (home / "lineage.svg").is_file()
    listed: Any = hand.json("tapestry build list --node ./node", "acme")
    assert listed["derivatives"][0]["figures"], listed
