"""Derivatives of a release: made by private continued pre-training, and carried onto later releases."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.parity.trials import Record
from benchmarks.portability.bases import WORDS, Texts, loss, step
from benchmarks.portability.sizes import Size
from tapestry.sovereign import directory, models
from tapestry.sovereign.home import BuildHome
from tapestry.sovereign.lineage import Lineage
from tapestry.sovereign.port.carry import Source, port
from tapestry.sovereign.port.fitted import FACTORS
from tapestry.sovereign.port.gain import Gain
from tapestry.training.batches import Order

WAYS: Final = ("ported", "scaled", "healed")
"""The plain sum; with one factor by a line search; after a short healing, which is training."""
PIECE: Final = 64
"""Windows of private text, not trained on, that choose the factor."""


def left(name: str, values: Mapping[str, float], way: str = "ported") -> float | None:
    """The gain recovered by a way; None where it is undefined."""
    return Gain(
        name=name, new_base=values["new_base"], ported=values[way], rebuilt=values["rebuilt"]
    ).recovered


@dataclass(frozen=True, kw_only=True)
class Derivatives:
    """Of one base by one member and one method.

    Args:
        member: language.
        method: "full" or "lora".
        releases: folders of the base's releases.
        scores: of these on the member's held-out text.
        scratch: folder for models.
    """

    size: Size
    texts: Texts
    seed: int
    member: str
    method: str
    releases: list[Path]
    scores: list[float]
    scratch: Path

    def carried(self) -> Record:
        """A derivative of release 0; and on the next and the last release carried over, and made anew."""
        last = len(self.releases) - 1
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            root = Path(folder)
            first = self._made(self.releases[0], root / "d0")
            found = {str(n): self._on(n, root) for n in sorted({1, last} - {0}) if n <= last}
        told = {n: {way: left(self.member, values, way) for way in WAYS} for n, values in found.items()}
        return {"first": first, "base": self.scores[0], "found": found, "told": told}

    def _on(self, release: int, root: Path) -> dict[str, Any]:
        source = Source.open(root / "d0", full=self.method == "full")
        new, out = self.releases[release], root / f"ported-{release}"
        ported = port(source, new, out, old=self.releases[0], now_ms=0)
        factor, scaled = self._scaled(new, ported.home.model)
        return {
            "new_base": self.scores[release],
            "ported": self.texts.score(_open(ported.home.model), self.member),
            "factor": factor,
            "scaled": scaled,
            "healed": self._healed(new, ported.home),
            "rebuilt": self._made(new, root / f"rebuilt-{release}"),
        }

    def _scaled(self, new: Path, ported: Path) -> tuple[float, float]:
        """The factor of what was added that is best on private text not trained on, and its score."""
        module, base, added = _open(ported), _open(new).state_dict(), {}
        with torch.no_grad():
            for name, values in module.state_dict().items():
                added[name] = values - base[name]

        def put(factor: float) -> Any:
            with torch.no_grad():
                for name, values in module.state_dict().items():
                    values.copy_(base[name] + factor * added[name])
            return module

        rows = self._rows(self._trained + self.size.heal * self.size.private_sequences, PIECE)
        with torch.no_grad():
            best = min((0.0, *FACTORS), key=lambda factor: float(loss(put(factor), rows)))
        return best, self.texts.score(put(best), self.member)

    def _healed(self, new: Path, home: BuildHome) -> float:
        """After a few steps on private text from where the port has left it."""
        if self.method == "lora":
            from peft import PeftModel

            adapted: Any = PeftModel.from_pretrained(_open(new), home.adapter, is_trainable=True)
            self._train(adapted, self.size.heal, self._trained)
            return self.texts.score(adapted.merge_and_unload(), self.member)
        module = _open(home.model)
        self._train(module, self.size.heal, self._trained)
        return self.texts.score(module, self.member)

    @property
    def _trained(self) -> int:
        """Windows of the private text that a derivative has read."""
        return self.size.private * self.size.private_sequences

    def _rows(self, position: int, count: int) -> torch.Tensor:
        private = self.texts.parts[self.member][1]
        order = Order(private.train.tokens, self.size.sequence_length, seed=self.seed, node=self.member)
        return torch.from_numpy(order.batch(position, count))

    def _made(self, base: Path, root: Path) -> float:
        """A build's folder with a derivative of a base; its score on the member's held-out text."""
        module = _open(base)
        if self.method == "lora":
            from peft import LoraConfig, get_peft_model

            torch.manual_seed(self.seed)
            rank = self.size.rank
            module = get_peft_model(
                module,
                LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"),
            )
        self._train(module, self.size.private, 0)
        if self.method == "lora":
            module.save_pretrained(root / "adapter")
            module = module.merge_and_unload()
        self._finish(module, base, root)
        return self.texts.score(module, self.member)

    def _train(self, module: Any, steps: int, position: int) -> None:
        """On private text from a window on; the rate rises shortly and falls to 0."""
        size = self.size
        rate = size.lora_rate if self.method == "lora" else size.private_rate
        trained = [p for p in module.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
        for now in range(steps):
            part = min(1.0, (now + 1) / 20) * (0.5 + 0.5 * math.cos(math.pi * now / steps))
            rows = self._rows(position + now * size.private_sequences, size.private_sequences)
            step(module, optimizer, rows, rate * part)

    def _finish(self, module: Any, base: Path, root: Path) -> None:
        module.save_pretrained(root / "model")
        for name, data in WORDS.files().items():
            (root / "model" / name).write_bytes(data)
        Lineage(
            name=self.member, owner=self.member, level="national", licence="Apache-2.0",
            languages=(self.member,), base=models.base_of(base), parent=None, recipe="0" * 64,
            constitution=None, stages=(), weights=directory.weights_digest(root / "model"),
            adapter=self.method == "lora", release="0",
        ).save(root / "lineage.json")  # fmt: skip


def _open(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
