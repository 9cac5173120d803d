"""`python -m benchmarks.portability`: what is left of a derivative's gain when it is carried over.

One base is trained on a part of all languages' text, and released six times, each time at least 2 % better in
bits per byte. From release 0 a member makes a derivative by private continued pre-training on its own
language's other text, with full weights and with an adapter. It is then carried onto releases 1 and 5 by
`tapestry.sovereign.port`, without any training, and compared with the same recipe run on these releases.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.parity.trials import Book, Record, digest
from benchmarks.report import RESULTS, Hardware, Report
from tapestry.sovereign.port.carry import Source, port
from tapestry.sovereign.port.gain import Gain
from tapestry.training.batches import Order
from tapestry.training.corpus import Corpus, open_corpus
from tapestry.training.evaluation import bits_per_byte
from tapestry.training.model import complete_config, fresh
from tapestry.training.tokenizer import Tokenizer

APART: Final = 0.02
"""Releases are at least so far apart, of the older one's bits per byte."""
GOALS: Final = {1: 0.95, 5: 0.80}
"""Part of the gain to be left after so many releases."""
METHODS: Final = ("full", "lora")
EVERY: Final = 4
"""One document of so many is in the shared base's text."""
WORDS: Final = Tokenizer.byte_level()


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large it all is. Steps are of the optimizer."""

    hidden: int
    layers: int
    sequence_length: int = 64
    sequences: int = 16
    base_rate: float = 2e-3
    warmup: int = 50
    first: int
    """Steps before release 0."""
    look: int
    """Steps between two looks at whether the next release is far enough."""
    most: int
    """Steps of the base at most."""
    private: int
    """Steps of a derivative."""
    private_rate: float = 3e-4
    lora_rate: float = 2e-3
    rank: int = 16
    releases: int = 5
    evaluate: int = 1 << 14
    averaged: float = 0.98
    """Released are the weights, averaged over the last steps by this factor a step, as merges average."""


SIZES: Final = {
    "tiny": Size(
        hidden=32, layers=1, first=20, look=10, most=400, private=10, evaluate=1 << 10, averaged=0.5
    ),
    "small": Size(hidden=128, layers=2, first=600, look=50, most=8000, private=200),
    "medium": Size(hidden=192, layers=3, first=1500, look=100, most=30_000, private=300, sequence_length=128),
}


@dataclass(kw_only=True)
class Bench:
    """Args:
    size: how large.
    name: of the size.
    corpora: folder with a folder a language.
    members: languages for which derivatives are made; the base is trained on all.
    out: folder of the book and of bases.
    """

    size: Size
    name: str
    corpora: Path
    members: Sequence[str]
    out: Path
    until: float = float("inf")

    def __post_init__(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        self.book = Book(self.out)
        languages = sorted(each.name for each in self.corpora.iterdir() if (each / "train.jsonl").is_file())
        self.text = {name: self._cut(name) for name in languages}
        read = {name: [part.digest for part in parts] for name, parts in self.text.items()}
        self.setup = digest({"size": asdict(self.size), "text": read, "every": EVERY})

    def _cut(self, language: str) -> tuple[Corpus, Corpus]:
        """What the base is trained on, and what the member keeps to itself; the held-out text is the same."""
        lines = (self.corpora / language / "train.jsonl").read_text("utf-8").splitlines()
        valid = (self.corpora / language / "valid.jsonl").read_text("utf-8")
        made = []
        for part, chosen in (
            ("shared", lines[::EVERY]),
            ("private", [line for n, line in enumerate(lines) if n % EVERY]),
        ):
            folder = self.out / "text" / language / part
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "train.jsonl").write_text("\n".join(chosen) + "\n", "utf-8")
            (folder / "valid.jsonl").write_text(valid, "utf-8")
            made.append(open_corpus(folder, WORDS, self.out / "cache"))
        return made[0], made[1]

    # -- trials ---------------------------------------------------------------------------------

    def seed(self, seed: int) -> bool:
        """All trials of a seed that are not done yet. False where the time did not suffice."""
        if self.once("bases", seed, "", {}, lambda: self._bases(seed)) is None:
            return False
        for member in self.members:
            for method in METHODS:
                done = self.once(
                    "port",
                    seed,
                    member,
                    {"method": method},
                    lambda m=member, w=method: self._port(seed, m, w),
                )  # type: ignore[misc]
                if done is None:
                    return False
        return True

    def once(self, method: str, seed: int, member: str, knobs: dict[str, Any], run: Any) -> Record | None:
        key = {
            "setting": self.name, "members": [member], "setup": self.setup, "method": method, "rules": "",
            "knobs": knobs, "seed": seed, "share": 1.0,
        }  # fmt: skip
        if (done := self.book.find(key)) is not None:
            return done
        if time.monotonic() >= self.until:
            return None
        began, cpu = time.monotonic(), time.process_time()
        record = key | run()
        record |= {
            "seconds": round(time.monotonic() - began, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "hardware": str(Hardware.here()),
            "threads": torch.get_num_threads(),
        }
        self.book.add(record)
        print(
            method,
            member,
            seed,
            json.dumps(knobs),
            json.dumps(record.get("told")),
            record["seconds"],
            "s",
            flush=True,
        )
        return record

    def base(self, seed: int, release: int) -> Path:
        return self.out / f"base-{self.setup}-{seed}" / f"r{release}"

    def _bases(self, seed: int) -> Record:
        """Train one base and keep its releases as directories."""
        size, module = self.size, fresh(self.config(), seed)
        shutil.rmtree(self.base(seed, 0).parent, ignore_errors=True)
        orders = [
            Order(shared.train.tokens, size.sequence_length, seed=seed, node=name)
            for name, (shared, _) in self.text.items()
        ]
        optimizer = torch.optim.AdamW(
            module.parameters(), lr=size.base_rate, betas=(0.9, 0.95), weight_decay=0.1
        )
        averaged = {name: p.detach().clone() for name, p in module.named_parameters()}
        scores: list[dict[str, float]] = []
        steps: list[int] = []
        each = max(1, size.sequences // len(orders))
        for step in range(size.most):
            rate = size.base_rate * min(1.0, (step + 1) / size.warmup)
            rows = [torch.from_numpy(order.batch(step * each, each)) for order in orders]
            _step(module, optimizer, torch.cat(rows), rate)
            with torch.no_grad():
                for name, p in module.named_parameters():
                    averaged[name].lerp_(p, 1 - size.averaged if step > size.warmup else 1.0)
            if step + 1 < size.first or (step + 1) % size.look:
                continue
            score = self._scores(module, averaged)
            if scores and statistics.fmean(score.values()) > (1 - APART) * statistics.fmean(
                scores[-1].values()
            ):
                continue
            self._save(module, averaged, self.base(seed, len(scores)))
            scores.append(score)
            steps.append(step + 1)
            if len(scores) > size.releases:
                break
        means = [statistics.fmean(score.values()) for score in scores]
        return {"scores": scores, "steps": steps, "told": {"steps": steps, "bits_per_byte": means}}

    def _scores(self, module: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> dict[str, float]:
        kept = {name: p.detach().clone() for name, p in module.named_parameters()}
        with torch.no_grad():
            for name, p in module.named_parameters():
                p.copy_(weights[name])
            found = {name: self.score(module, name) for name in self.text}
            for name, p in module.named_parameters():
                p.copy_(kept[name])
        return found

    def score(self, module: torch.nn.Module, language: str) -> float:
        valid = self.text[language][0].valid
        return bits_per_byte(
            module, valid, sequence_length=self.size.sequence_length, max_tokens=self.size.evaluate
        ).bits_per_byte

    def _save(self, module: Any, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
        module.save_pretrained(folder, state_dict={name: value.clone() for name, value in weights.items()})
        for name, data in WORDS.files().items():
            (folder / name).write_bytes(data)

    def config(self) -> dict[str, Any]:
        heads = self.size.hidden // 32
        return complete_config(
            {
                "hidden_size": self.size.hidden, "intermediate_size": 2 * self.size.hidden,
                "num_hidden_layers": self.size.layers, "num_attention_heads": heads,
                "num_key_value_heads": heads, "max_position_embeddings": self.size.sequence_length,
                "tie_word_embeddings": True,
            },
            WORDS,
        )  # fmt: skip

    # -- derivatives ----------------------------------------------------------------------------

    def _port(self, seed: int, member: str, method: str) -> Record:
        """A derivative of release 0; and on later releases the same carried over, and made anew."""
        releases = len(self._known(seed)) - 1
        targets = sorted({1, releases} - {0})
        with tempfile.TemporaryDirectory(dir=self.out) as scratch:
            first = self._build(seed, member, method, 0, Path(scratch) / "d0")
            found: dict[str, dict[str, float]] = {}
            for target in targets:
                new = self.base(seed, target)
                full = method == "full"
                source = Source.open(Path(scratch) / "d0", full=full)
                out = Path(scratch) / f"ported-{target}"
                ported = port(source, new, out, old=self.base(seed, 0), now_ms=0)
                rebuilt = self._build(seed, member, method, target, Path(scratch) / f"rebuilt-{target}")
                found[str(target)] = {
                    "new_base": self._known(seed)[target][member],
                    "ported": self.score(_open(ported.home.model), member),
                    "rebuilt": rebuilt,
                }
        gains = {t: Gain(name=member, **values).recovered for t, values in found.items()}
        return {"first": first, "base": self._known(seed)[0][member], "found": found, "told": gains}

    def _known(self, seed: int) -> list[dict[str, float]]:
        records = [r for r in self.book.records if r["method"] == "bases" and r["seed"] == seed]
        scores: list[dict[str, float]] = next(r["scores"] for r in records if r["setup"] == self.setup)
        return scores

    def _build(self, seed: int, member: str, method: str, release: int, root: Path) -> float:
        """Private continued pre-training on one release; the score on the member's held-out text."""
        size, base = self.size, self.base(seed, release)
        module: Any = _open(base)
        if method == "lora":
            from peft import LoraConfig, get_peft_model

            torch.manual_seed(seed)
            chosen = LoraConfig(
                r=size.rank, lora_alpha=2 * size.rank, target_modules="all-linear", task_type="CAUSAL_LM"
            )
            module = get_peft_model(module, chosen)
        rate = size.lora_rate if method == "lora" else size.private_rate
        trained = [p for p in module.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
        private = self.text[member][1]
        order = Order(private.train.tokens, size.sequence_length, seed=seed, node=member)
        for step in range(size.private):
            now = rate * min(1.0, (step + 1) / 20) * (0.5 + 0.5 * math.cos(math.pi * step / size.private))
            rows = torch.from_numpy(order.batch(step * size.sequences, size.sequences))
            _step(module, optimizer, rows, now)
        if method == "lora":
            module.save_pretrained(root / "adapter")
            module = module.merge_and_unload()
        self._finish(module, base, root, member)
        return self.score(module, member)

    def _finish(self, module: Any, base: Path, root: Path, member: str) -> None:
        from tapestry.sovereign import directory, models
        from tapestry.sovereign.lineage import Lineage

        module.save_pretrained(root / "model")
        for name, data in WORDS.files().items():
            (root / "model" / name).write_bytes(data)
        Lineage(
            name=member, owner=member, level="national", licence="Apache-2.0", languages=(member,),
            base=models.base_of(base), parent=None, recipe="0" * 64, constitution=None, stages=(),
            weights=directory.weights_digest(root / "model"), adapter=False, release="0",
        ).save(root / "lineage.json")  # fmt: skip


def _open(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def _step(module: Any, optimizer: torch.optim.Optimizer, rows: torch.Tensor, rate: float) -> None:
    module.train()
    logits = module(input_ids=rows[:, :-1], use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
    torch.autograd.backward(loss)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()
    module.eval()


# -- report -------------------------------------------------------------------------------------


def interval(values: Sequence[float]) -> str:
    """Mean with Student's 95 % interval over seeds."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.1%} (one seed)"
    t = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}.get(len(values), 2.0)
    half = t * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.1%} ± {half:.1%}"


def report(bench: Bench) -> Report:
    made = Report(
        what=f"portability-{bench.name}",
        title="Portability: what is left of a derivative's gain on later bases",
        not_shown=(
            "Models of other sizes: these are small, and the same program runs larger ones.",
            "Bases that do not continue training from one another: all releases are of one run.",
            "Tasks other than bits per byte, and derivatives tuned by SFT or DPO.",
            "A base trained by rounds: here one machine trains it on all languages' shared text.",
        ),
    )
    ours = [r for r in bench.book.records if r["setup"] == bench.setup]
    bases = sorted((r for r in ours if r["method"] == "bases"), key=lambda r: r["seed"])
    made.section(
        "Releases", "Bits per byte of held-out text, mean over languages; each 2 % below the last at least."
    )
    rows = [
        (
            r["seed"],
            *(
                f"{statistics.fmean(s.values()):.3f} ({n} steps)"
                for s, n in zip(r["scores"], r["steps"], strict=True)
            ),
        )
        for r in bases
    ]
    widest = max((len(row) - 1 for row in rows), default=0)
    made.table(
        ("seed", *(f"r{i}" for i in range(widest))), [(*row, *[""] * (widest + 1 - len(row))) for row in rows]
    )
    ports = [r for r in ours if r["method"] == "port"]
    made.section(
        "Gain recovered",
        "(new base − ported) / (new base − rebuilt), mean over languages, by seed; 95 % over seeds.",
    )
    summary = []
    for method in METHODS:
        for target, goal in GOALS.items():
            by_seed = [found for r in bases if (found := _mean(ports, r["seed"], method, str(target)))]
            summary.append(
                (method, target, interval(by_seed) if by_seed else "-", f"{goal:.0%}", len(by_seed))
            )
    made.table(("method", "releases on", "recovered", "goal", "seeds"), summary)
    made.section("By language")
    made.table(
        (
            "seed",
            "language",
            "method",
            "release",
            "new base",
            "ported",
            "rebuilt",
            "denominator",
            "recovered",
        ),
        [_line(r, t, v) for r in ports for t, v in sorted(r["found"].items())],
    )
    return made


def _mean(ports: Sequence[Record], seed: int, method: str, target: str) -> float | None:
    """Over languages: the summed gains that are left by the summed gains of starting over."""
    chosen = [
        r["found"][target]
        for r in ports
        if r["seed"] == seed and r["knobs"]["method"] == method and target in r["found"]
    ]
    whole = sum(v["new_base"] - v["rebuilt"] for v in chosen)
    return sum(v["new_base"] - v["ported"] for v in chosen) / whole if chosen and whole > 0 else None


def _line(record: Record, target: str, values: dict[str, float]) -> tuple[object, ...]:
    gain = Gain(name=record["members"][0], **values)
    figures = [f"{values[key]:.4f}" for key in ("new_base", "ported", "rebuilt")]
    left = "undefined" if gain.recovered is None else f"{gain.recovered:.1%}"
    return (
        record["seed"], record["members"][0], record["knobs"]["method"], f"r{target}", *figures,
        f"{gain.denominator:.4f}", left,
    )  # fmt: skip


def main() -> None:
    made = argparse.ArgumentParser(prog="python -m benchmarks.portability", description=__doc__)
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of trials and bases")
    made.add_argument("--corpora", type=Path, required=True, metavar="DIR", help="a folder a language")
    made.add_argument("--members", default="de,hi,vi", help="languages with a derivative (de,hi,vi)")
    made.add_argument("--size", choices=SIZES, default="small")
    made.add_argument("--seeds", default="0", help="with commas between (0)")
    made.add_argument("--minutes", type=float, metavar="N", help="begin no trial after so long")
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--note", default="", help="a remark for the report")
    made.add_argument("--write", action="store_true", help="write the report to benchmarks/results/")
    given = made.parse_args()
    torch.set_num_threads(given.threads)
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    until = time.monotonic() + given.minutes * 60 if given.minutes else float("inf")
    bench = Bench(
        size=SIZES[given.size], name=given.size, corpora=given.corpora, members=given.members.split(","),
        out=given.out, until=until,
    )  # fmt: skip
    whole = [bench.seed(int(seed)) for seed in given.seeds.split(",")]
    result = report(bench)
    if given.note:
        result.note(given.note)
    print(result.write(RESULTS if given.write else given.out))
    if not all(whole):
        print("the time is up: call it again to go on")


if __name__ == "__main__":
    main()
