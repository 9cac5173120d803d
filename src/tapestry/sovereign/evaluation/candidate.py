"""A model that is evaluated: opened as `serve` opens it, scored, asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812

from tapestry.errors import Diverged, ModelError
from tapestry.sovereign.directory import weights_digest
from tapestry.sovereign.evaluation.report import Role, Subject
from tapestry.sovereign.serve.loading import load
from tapestry.training.model import first_line, read_tokenizer
from tapestry.training.tokenizer import Tokenizer

PASS_TOKENS: Final = 4096
"""Tokens of one forward pass, about."""
Ids = list[int]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Said:
    """What a model holds of an answer: Σ ln p of its tokens, how many, and its bytes in UTF-8."""

    nats: float
    tokens: int
    bytes: int


class Candidate:
    """One model in memory.

    Args:
        role: what it is in the comparison.
        folder: a Hugging Face directory with safetensors, or a finished build.
        device: where it computes.

    Raises:
        ModelError: files that are missing, damaged, or of an architecture that is not in the list.
        ResourceError: it does not fit.
    """

    def __init__(self, role: Role, folder: Path, device: Literal["cpu", "cuda"] = "cpu") -> None:
        self.role, self._served = role, load(folder, device=device, precision="fp32")
        self.folder, self.device = self._served.folder, self._served.device
        self.module: Any = self._served.module
        self.context, self.ends = self._served.context, self._served.ends
        config: Any = self.module.config
        end = config.eos_token_id
        self.words: Tokenizer = read_tokenizer(self.folder, end_id=end[0] if isinstance(end, list) else end)
        self.parameters = self._served.parameters

    def subject(self) -> Subject:
        """As the report names it."""
        return Subject(
            role=self.role,
            name=self._served.name[:200],
            weights=weights_digest(self.folder),
            tokenizer=self.words.digest,
            parameters=self.parameters,
            model_type=str(self.module.config.model_type),
        )

    # -- prompts --------------------------------------------------------------------------------------------

    def prompt(self, text: str) -> Ids:
        """Ids of a prompt: by the model's chat template; without one the text and a line end, as a document's
        beginning."""
        if self._served.chat:
            talk = [{"role": "user", "content": text}]
            try:
                found = self._served.tokenizer.apply_chat_template(
                    talk, add_generation_prompt=True, sanitize_control_tokens=True, return_dict=True
                )
            except Exception as e:
                raise ModelError(
                    f"the chat template of {self.folder} refuses a prompt: {first_line(e)}"
                ) from e
            return list(found["input_ids"])
        return [
            self.words.end_id,
            *self.words.encode(text if text[-1:].isspace() else text + "\n")[0].tolist(),
        ]

    def answer(self, text: str) -> Ids:
        return [int(each) for each in self.words.encode(text)[0]]

    def require_finite(self, finite: bool) -> None:
        """Raise `Diverged` for numbers that are none: a damaged model would have followed no instruction and
        memorized nothing, and met gates by that."""
        if not finite:
            raise Diverged(
                f"the model in {self.folder} gives numbers that are not finite",
                hint="its weights are damaged, or its training went astray; build it again",
            )

    # -- scores ---------------------------------------------------------------------------------------------

    def say(self, asked: Sequence[tuple[str, str]]) -> list[Said]:
        """What it holds of answers to prompts."""
        rows = [(self.prompt(prompt), self.answer(answer)) for prompt, answer in asked]
        nats = self.log_probs(rows)[0]
        return [
            Said(float(each), len(row[1]), len(text.encode()))
            for each, row, (_, text) in zip(nats, rows, asked, strict=True)
        ]

    @torch.no_grad()
    def log_probs(self, rows: Sequence[tuple[Ids, Ids]]) -> tuple[npt.NDArray[np.float64], Flags]:
        """Of each row's second part behind its first: Σ ln p, and whether each token is the likeliest one.

        Too long a beginning loses its first tokens. Rows go through padded on the right, which a causal model
        does not see.
        """
        nats, greedy = np.zeros(len(rows)), np.zeros(len(rows), np.bool_)
        cut = [([*before, *after][-self.context - 1 :], len(after)) for before, after in rows]
        order = sorted(range(len(cut)), key=lambda i: len(cut[i][0]))
        for batch in _batches(order, [len(ids) for ids, _ in cut]):
            width = max(len(cut[i][0]) for i in batch)
            padded = torch.full((len(batch), width), self.words.end_id, dtype=torch.long)
            for row, i in enumerate(batch):
                padded[row, : len(cut[i][0])] = torch.tensor(cut[i][0])
            logits = self.module(input_ids=padded[:, :-1].to(self.device), use_cache=False).logits.float()
            for row, i in enumerate(batch):
                ids, count = cut[i]
                count = min(count, len(ids) - 1)
                if count:
                    part = logits[row, len(ids) - 1 - count : len(ids) - 1]
                    wanted = torch.tensor(ids[-count:], device=self.device)
                    nats[i] = -float(F.cross_entropy(part, wanted, reduction="none").double().sum())
                    greedy[i] = bool((part.argmax(dim=-1) == wanted).all())
        self.require_finite(bool(np.isfinite(nats).all()))
        return nats, greedy

    # -- answers --------------------------------------------------------------------------------------------

    def ask(
        self, prompts: Sequence[str], tokens: int, *, temperature: float = 0.0, seed: int = 0
    ) -> list[str]:
        """Answers, the likeliest token each time, or drawn. Prompts of one length go through together."""
        ids = [self.prompt(each)[-max(1, self.context - tokens) :] for each in prompts]
        return [self.text(each) for each in self.generate(ids, tokens, temperature=temperature, seed=seed)]

    def text(self, ids: Ids) -> str:
        """Of ids, without special tokens."""
        return str(self.words.fast.decode(ids, skip_special_tokens=True)).strip()

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Ids], tokens: int, *, temperature: float = 0.0, seed: int = 0
    ) -> list[Ids]:
        """Up to so many ids behind each prompt, without the one that ends an answer."""
        found: list[Ids] = [[] for _ in prompts]
        draw = torch.Generator().manual_seed(seed)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for batch in _batches(order, [len(each) + tokens for each in prompts], alike=True):
            rows = torch.tensor([prompts[i] for i in batch], device=self.device)
            cache: Any = None
            open_ = np.ones(len(batch), np.bool_)
            for _ in range(min(tokens, self.context - rows.shape[1])):
                out = self.module(input_ids=rows, past_key_values=cache, use_cache=True)
                cache, logits = out.past_key_values, out.logits[:, -1].float().cpu()
                self.require_finite(bool(torch.isfinite(logits).all()))
                nexts = _choose(logits, temperature, draw)
                for row, (i, token) in enumerate(zip(batch, nexts.tolist(), strict=True)):
                    open_[row] &= token not in self.ends
                    if open_[row]:
                        found[i].append(token)
                if not open_.any():
                    break
                rows = nexts[:, None].to(self.device)
        return found


def _choose(logits: torch.Tensor, temperature: float, draw: torch.Generator) -> torch.Tensor:
    if temperature <= 0:
        return logits.argmax(dim=-1)
    return torch.multinomial((logits / temperature).softmax(dim=-1), 1, generator=draw)[:, 0]


def _batches(order: Sequence[int], lengths: Sequence[int], *, alike: bool = False) -> list[list[int]]:
    """Rows, which come by length, in batches of about `PASS_TOKENS`; of one length each where wanted."""
    found: list[list[int]] = []
    for i in order:
        last = found[-1] if found else []
        fits = last and (len(last) + 1) * lengths[i] <= PASS_TOKENS
        if fits and (not alike or lengths[last[0]] == lengths[i]):
            last.append(i)
        else:
            found.append([i])
    return found
