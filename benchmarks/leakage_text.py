"""Who has which text when leakage is measured: members, an attacker, and nobody."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from benchmarks.parity.methods import SETTINGS, Setting
from tapestry.node.canaries import Canaries
from tapestry.training.corpus import Corpus, open_corpus
from tapestry.training.documents import documents
from tapestry.training.leakage import measure as attacks
from tapestry.training.leakage.figures import Scores
from tapestry.training.leakage.windows import Form, Numbers
from tapestry.training.tokenizer import Tokenizer

WINDOW: Final = 512
MEMBERS: Final = ("m0", "m1", "m2", "m3")
LANGUAGE: Final = "fr"
"""Of which text is taken, where there is a folder of it."""
MARKER: Final = "qzjxvkwpbyfhgmcdluno"
KEEP: Final = 512
"""Of 4096 values of a sparse update; short runs learn nothing from the 64 of longer ones."""
CANARIES: Final = 4
"""In the text of each member; so many again are not planted anywhere."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a measurement is. `windows`: of each member, where text is passed through once."""

    hidden: int = 64
    windows: int = 512
    times: int = 16
    others: int = 800
    """Windows of the attacker, and of nobody."""
    rounds: Mapping[int, int]
    """H, and how many rounds' updates are looked at."""
    senders: int = 4
    beside: int = 64
    """Windows of nobody that an update is tried on."""
    candidates: int = 63
    overfit: int = 32
    overfit_times: int = 40

    @property
    def model(self) -> dict[str, Any]:
        return {
            **SETTINGS["small"].model,
            "hidden_size": self.hidden,
            "intermediate_size": self.hidden * 8 // 3 // 8 * 8,
            "num_hidden_layers": 2,
            "num_attention_heads": self.hidden // 32,
            "num_key_value_heads": self.hidden // 32,
            "max_position_embeddings": WINDOW,
        }


FULL: Final = Size(rounds={5: 8, 20: 4, 80: 2})
QUICK: Final = Size(hidden=32, windows=48, times=4, others=120, rounds={4: 2}, candidates=15, overfit=24)
FORM: Final = Form(sequence_length=WINDOW, predicted=WINDOW, parts=1, bytes=WINDOW)
LEARNING_RATE: Final = 4e-3
OVERFIT_RATE: Final = 6e-3
SEQUENCES: Final = 1
"""Of a member's step."""
ALONE: Final = 4
"""Of a step of the reference and of the control."""


@dataclass(frozen=True)
class World:
    """Text of everybody, windows and what the attacker's reference says of them."""

    size: Size
    corpora: dict[int, dict[str, Corpus]]
    """By how many times it is passed through."""
    nobody: Corpus
    attacker: Corpus
    folder: Path
    identity: str
    known: dict[tuple[str, str], Scores] = field(default_factory=dict)
    """What models that do not change say of all windows of a text."""

    def losses(self, name: str, module: torch.nn.Module, corpus: Corpus, windows: Numbers) -> Scores:
        """Of `module`, which goes by that name."""
        key = (name, corpus.digest)
        if key not in self.known:
            every = np.arange(FORM.count(corpus.train.tokens))
            self.known[key] = attacks.losses(module, FORM.rows(corpus.train.tokens, every))
        return self.known[key][windows]

    def setting(self, rows: int) -> Setting:
        return replace(
            SETTINGS["small"],
            name="leakage",
            model=self.size.model,
            sequence_length=WINDOW,
            batches=(rows,),
            evaluate_tokens=1 << 14,
            points=1,
        )


def deal(source: Path, folder: Path, size: Size) -> World:
    """Documents of a language in random order, dealt out."""
    there = [path for path in sorted(source.iterdir()) if path.name.startswith(("train", "valid"))]
    every = ["".join(one) for path in there if path.suffix == ".jsonl" for one in documents(path)]
    random.Random(1).shuffle(every)
    identity = hashlib.sha256(json.dumps([every[:3], asdict(size)]).encode()).hexdigest()[:12]
    planted = Canaries(marker=MARKER, planted=len(MEMBERS) * CANARIES)
    take = iter(every)
    lots = {"nobody": size.others, "attacker": size.others, **dict.fromkeys(MEMBERS, size.windows)}
    held: dict[str, list[str]] = {}
    for name, windows in lots.items():
        held[name], left = [], (windows + 1) * WINDOW + 64
        while left > 0:
            held[name].append(next(take))
            left -= len(held[name][-1].encode()) + 1
    corpora: dict[int, dict[str, Corpus]] = {}
    tokenizer = Tokenizer.byte_level()

    def corpus(name: str, own: list[str]) -> Corpus:
        place = folder / "text" / name
        place.mkdir(parents=True)
        for split, said in (("train", own), ("valid", held["nobody"])):
            lines = "".join(json.dumps({"text": one}) + "\n" for one in said)
            (place / f"{split}.jsonl").write_text(lines)
        return open_corpus(place, tokenizer, folder / "tokens")

    for times in (1, size.times):
        corpora[times] = {}
        for number, name in enumerate(MEMBERS):
            lines = [planted.text(number * CANARIES + i) for i in range(CANARIES)]
            own, left = list(lines), size.windows // times * WINDOW - sum(len(one) + 1 for one in lines)
            for one in held[name]:
                own.append(one.encode()[:left].decode(errors="ignore"))
                left -= len(own[-1].encode()) + 1
                if left <= 1:
                    break
            random.Random(name).shuffle(own)
            corpora[times][name] = corpus(f"{name}-{times}", own)
    return World(
        size,
        corpora,
        corpus("nobody", held["nobody"]),
        corpus("attacker", held["attacker"]),
        folder,
        identity,
    )
