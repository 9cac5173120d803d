"""One base and its releases: trained on a part of the languages' text, each release better than the last."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.parity.trials import Record
from benchmarks.portability.sizes import APART, Size
from tapestry.training.batches import Order
from tapestry.training.corpus import Corpus, open_corpus
from tapestry.training.evaluation import bits_per_byte
from tapestry.training.model import complete_config, fresh
from tapestry.training.tokenizer import Tokenizer

EVERY: Final = 4
"""One document of so many is in the shared base's text."""
TRACE: Final = 8
"""A language of traces gives the base one window in so many steps."""
WORDS: Final = Tokenizer.byte_level()


class Texts:
    """What the base reads, what members keep to themselves, and what is held out.

    Args:
        corpora: folder with a folder a language.
        out: folder for the parts.
        size: for windows and scores.
        apart: languages of which the base reads nothing.
        traces: languages of which it reads very little.
    """

    def __init__(
        self, corpora: Path, out: Path, size: Size, *, apart: Collection[str], traces: Collection[str]
    ) -> None:
        self._corpora, self._out, self._size = corpora, out, size
        names = sorted(each.name for each in corpora.iterdir() if (each / "train.jsonl").is_file())
        self.parts = {name: self._cut(name) for name in names}
        self.shared = [name for name in names if name not in apart and name not in traces]
        self.traces = [name for name in names if name in traces]

    def _cut(self, language: str) -> tuple[Corpus, Corpus]:
        """What a base may be trained on, and what a member keeps; the held-out text is the same."""
        lines = (self._corpora / language / "train.jsonl").read_text("utf-8").splitlines()
        valid = (self._corpora / language / "valid.jsonl").read_text("utf-8")
        made = []
        for part, chosen in (
            ("shared", lines[::EVERY]),
            ("private", [line for n, line in enumerate(lines) if n % EVERY]),
        ):
            folder = self._out / "text" / language / part
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "train.jsonl").write_text("\n".join(chosen) + "\n", "utf-8")
            (folder / "valid.jsonl").write_text(valid, "utf-8")
            made.append(open_corpus(folder, WORDS, self._out / "cache"))
        return made[0], made[1]

    def digests(self) -> dict[str, list[str]]:
        return {name: [part.digest for part in parts] for name, parts in self.parts.items()}

    def score(self, module: torch.nn.Module, language: str) -> float:
        """Bits per byte of held-out text."""
        size = self._size
        return bits_per_byte(
            module,
            self.parts[language][0].valid,
            sequence_length=size.sequence_length,
            max_tokens=size.evaluate,
        ).bits_per_byte

    def mean(self, scores: Mapping[str, float]) -> float:
        """Over the languages that the base is made for."""
        return statistics.fmean(scores[name] for name in self.shared)


def loss(module: Any, rows: torch.Tensor) -> torch.Tensor:
    logits = module(input_ids=rows[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def step(module: Any, optimizer: torch.optim.Optimizer, rows: torch.Tensor, rate: float) -> None:
    module.train()
    torch.autograd.backward(loss(module, rows))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()
    module.eval()


def config(size: Size) -> dict[str, Any]:
    heads = size.hidden // 32
    return complete_config(
        {
            "hidden_size": size.hidden, "intermediate_size": 2 * size.hidden,
            "num_hidden_layers": size.layers, "num_attention_heads": heads,
            "num_key_value_heads": heads, "max_position_embeddings": size.sequence_length,
            "tie_word_embeddings": True,
        },
        WORDS,
    )  # fmt: skip


@dataclass
class Trunk:
    """A base in training.

    Args:
        seed: of its weights and of the order of its text.
        folder: of its releases.
    """

    size: Size
    texts: Texts
    seed: int
    folder: Path
    scores: list[dict[str, float]] = field(default_factory=list)
    """Bits per byte by language, of each release."""
    steps: list[int] = field(default_factory=list)

    def train(self) -> Record:
        """Until there are releases enough, which are kept as directories."""
        size = self.size
        module = fresh(config(size), self.seed)
        shutil.rmtree(self.folder, ignore_errors=True)
        orders = self._orders(self.texts.shared)
        traces = self._orders(self.texts.traces)
        optimizer = torch.optim.AdamW(
            module.parameters(), lr=size.base_rate, betas=(0.9, 0.95), weight_decay=0.1
        )
        averaged = {name: p.detach().clone() for name, p in module.named_parameters()}
        each = max(1, size.sequences // len(orders))
        for now in range(size.most):
            rows = [torch.from_numpy(order.batch(now * each, each)) for order in orders]
            if now % TRACE == 0:
                rows += [torch.from_numpy(order.batch(now // TRACE, 1)) for order in traces]
            step(module, optimizer, torch.cat(rows), size.rate(now))
            with torch.no_grad():
                for name, p in module.named_parameters():
                    averaged[name].lerp_(p, 1 - size.averaged if now > size.warmup else 1.0)
            if now + 1 >= size.first and (now + 1) % size.look == 0:
                self._look(module, averaged, now + 1)
            if len(self.scores) > size.releases:
                break
        means = [round(self.texts.mean(score), 4) for score in self.scores]
        told = {"steps": self.steps, "bits_per_byte": means}
        return {"scores": self.scores, "steps": self.steps, "told": told}

    def _orders(self, names: list[str]) -> list[Order]:
        parts, length = self.texts.parts, self.size.sequence_length
        return [Order(parts[name][0].train.tokens, length, seed=self.seed, node=name) for name in names]

    def _look(self, module: Any, averaged: Mapping[str, torch.Tensor], now: int) -> None:
        """Keep it as a release if it is far enough from the last one."""
        kept = {name: p.detach().clone() for name, p in module.named_parameters()}
        with torch.no_grad():
            for name, p in module.named_parameters():
                p.copy_(averaged[name])
            found = {name: self.texts.score(module, name) for name in self.texts.shared}
            if not self.scores or self.texts.mean(found) <= (1 - APART) * self.texts.mean(self.scores[-1]):
                others = [name for name in self.texts.parts if name not in found]
                found |= {name: self.texts.score(module, name) for name in others}
                self._save(module, self.folder / f"r{len(self.scores)}")
                self.scores.append(found)
                self.steps.append(now)
            for name, p in module.named_parameters():
                p.copy_(kept[name])

    def _save(self, module: Any, folder: Path) -> None:
        module.save_pretrained(folder)
        for name, data in WORDS.files().items():
            (folder / name).write_bytes(data)
