"""The data of a stage as tokens: read once, filtered, written as Arrow, which every rank then maps.

    data/rows.arrow       windows, examples or pairs, in the order of the files
    data/prepared.json    what they are, and of which datasets

What the owner protects and what the constitution keeps out is left out here, so that nothing later sees it.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np
import numpy.typing as npt

from tapestry.catalog.protected import Protected, Watch
from tapestry.errors import CardError, CorpusError, RecipeError
from tapestry.host import files
from tapestry.protocol.canonical import Sha256, sha256
from tapestry.protocol.message import Message
from tapestry.sovereign.chat import Chat
from tapestry.sovereign.lineage import Count, Dataset
from tapestry.sovereign.models import fresh
from tapestry.sovereign.places import Admitted
from tapestry.sovereign.recipe import StageTable
from tapestry.training.corpus import TextFile
from tapestry.training.documents import documents, examples_of, format_of
from tapestry.training.tokenizer import Tokenizer

ROWS: Final = "rows.arrow"
HEADER: Final = "prepared.json"
NOTHING: Final = -100
"""As a label: the model need not give this token."""
Ids = npt.NDArray[np.int64]
Row = dict[str, list[int]]


class Prepared(Message):
    """Header of a stage's data."""

    format: Literal["tapestry.prepared"] = "tapestry.prepared"
    version: Literal[1] = 1
    MAX_BYTES: ClassVar[int] = 64 << 20

    settings: Sha256
    """Of the stage."""
    filter: Sha256
    """Of what is protected, by owner and constitution."""
    datasets: tuple[Dataset, ...]
    withheld: Count
    cut: Count
    """Examples longer than the stage's sequence_length, of which the end is missing."""
    dropped: Count
    """Examples whose answer does not begin within it; they are left out."""
    rows: Count


@dataclass(frozen=True)
class Data:
    """Rows in memory maps, and their lengths.

    Args:
        header: of it.
        rows: a datasets.Dataset.
    """

    header: Prepared
    rows: Any

    def steps(self, stage: StageTable) -> int:
        """Of the optimizer."""
        if stage.steps is not None:
            return stage.steps
        return max(1, math.ceil(self.header.rows * (stage.epochs or 0) / stage.batch))

    def order(self, stage: StageTable, number: int, seed: int) -> Ids:
        """Which row comes when: each pass through the data is another permutation, by seed and stage."""
        wanted, found, n = self.steps(stage) * stage.batch, [], self.header.rows
        for each in range(math.ceil(wanted / n)):
            key = int(sha256(f"order {seed} {number} {each}".encode())[:16], 16)
            found.append(np.random.default_rng(key).permutation(n))
        return np.concatenate(found)[:wanted]

    def lengths(self) -> Ids:
        """Tokens of each row."""
        columns = [self.rows.data.column(name) for name in self.rows.column_names if name != "labels"]
        import pyarrow.compute as pc

        sizes = {
            name: np.asarray(pc.list_value_length(column).to_numpy(), np.int64)
            for name, column in zip(
                (name for name in self.rows.column_names if name != "labels"), columns, strict=True
            )
        }
        if "prompt_ids" not in sizes:
            return sizes["input_ids"]
        return 2 * sizes["prompt_ids"] + sizes["chosen_ids"] + sizes["rejected_ids"]


def open_data(folder: Path) -> Data:
    """Raises `FormatError`, `FileNotFoundError` where there is none."""
    from datasets import Dataset as Rows

    header = Prepared.from_bytes(files.read_limited(folder / HEADER, Prepared.MAX_BYTES))
    return Data(header, Rows.from_file(str(folder / ROWS)))


def require_same(folder: Path, admitted: tuple[Any, ...], stage: StageTable, kept: str) -> None:
    """Raise where the data of a stage that has begun is not what its cards and filters now say."""
    header = Prepared.from_bytes(files.read_limited(folder / HEADER, Prepared.MAX_BYTES))
    before = {each.name: each.card for each in header.datasets}
    now = {each.card.name: each.digest for each in admitted}
    hint = "finish with a new build: tapestry build init in another folder"
    if before != now:
        names = ", ".join(sorted(set(before.items()) ^ set(now.items()))[0][:1])
        raise CardError(f"the card of dataset {names} changed since this stage read it", hint=hint)
    if header.filter != kept:
        raise RecipeError("what is protected, or the constitution, changed since this stage began", hint=hint)
    if header.settings != stage.settings:
        raise RecipeError("the recipe changed since this stage began", hint=hint)


def prepare(
    folder: Path,
    stage: StageTable,
    admitted: Admitted,
    *,
    words: Tokenizer,
    chat: Chat | None,
    protected: Protected | None,
    kept: str,
) -> None:
    """Write the data of a stage; whole or not at all.

    Args:
        folder: is made.
        stage: what is wanted of it.
        admitted: its datasets.
        words: for text.
        chat: for examples.
        protected: what is left out.
        kept: stands for that.

    Raises:
        CorpusError: names file and line of what is wrong, or there is nothing to train on.
        RecipeError: a template that does not fit.
        DiskFull: no space; nothing is left behind.
    """
    made = _Rows(stage, words, chat, protected)
    temporary = fresh(folder)
    try:
        with files.full_disk(folder):
            _write(temporary / ROWS, stage, made.of(admitted))
            header = Prepared(
                settings=stage.settings,
                filter=kept,
                datasets=tuple(
                    Dataset(
                        name=card.card.name,
                        card=card.digest,
                        root=card.card.content.root,
                        documents=made.documents.get(card.card.name, 0),
                        tokens=made.tokens.get(card.card.name, 0),
                    )
                    for card in admitted.cards
                ),
                withheld=made.withheld,
                cut=made.cut,
                dropped=made.dropped,
                rows=made.rows,
            )
            files.write_new(temporary / HEADER, header.to_bytes())
        if not made.rows:
            raise _nothing(stage, made, admitted)
        shutil.rmtree(folder, ignore_errors=True)
        files.publish_dir(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _nothing(stage: StageTable, made: _Rows, admitted: Admitted) -> CorpusError:
    names = ", ".join(card.card.name for card in admitted.cards)
    why = [f"{made.withheld} documents are withheld"] if made.withheld else []
    if stage.kind == "cpt":
        why.append(f"{sum(made.tokens.values())} tokens fill no window of {stage.sequence_length}")
        hint = "add text, or a smaller sequence_length"
    else:
        why += [f"{made.dropped} examples are longer than sequence_length"] if made.dropped else []
        hint = "add examples, or a larger sequence_length"
    return CorpusError(f"nothing is left to train on of {names}: {'; '.join(why)}", hint=hint)


def _write(path: Path, stage: StageTable, rows: Iterator[Row]) -> None:
    from datasets import Features, Value
    from datasets import List as ListOf
    from datasets.arrow_writer import ArrowWriter

    names = ("prompt_ids", "chosen_ids", "rejected_ids") if stage.kind == "dpo" else ("input_ids", "labels")
    features = Features({name: ListOf(Value("int32")) for name in names})
    with closing(ArrowWriter(path=str(path), features=features, writer_batch_size=1000)) as writer:
        for row in rows:
            writer.write(row)
        writer.finalize()


@dataclass
class _Rows:
    """Makes rows of files, and counts."""

    stage: StageTable
    words: Tokenizer
    chat: Chat | None
    protected: Protected | None
    rows: int = 0
    withheld: int = 0
    cut: int = 0
    dropped: int = 0
    documents: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)

    def of(self, admitted: Admitted) -> Iterator[Row]:
        """Rows of the train files of all datasets."""
        if self.stage.kind == "cpt":
            yield from self._windows(admitted)
            return
        for card, file in admitted.files:
            if file.split == "train":
                for row, size in self._examples(file):
                    self.rows += 1
                    self._count(card.card.name, size)
                    yield row

    def _count(self, name: str, tokens: int) -> None:
        self.documents[name] = self.documents.get(name, 0) + 1
        self.tokens[name] = self.tokens.get(name, 0) + tokens

    def _windows(self, admitted: Admitted) -> Iterator[Row]:
        """Documents one after the other, each closed by the end-of-text token, cut into windows."""
        size, held = self.stage.sequence_length, np.empty(0, np.int64)
        for card, file in admitted.files:
            if file.split != "train":
                continue
            for ids in self._texts(file):
                self._count(card.card.name, len(ids))
                held = np.concatenate((held, ids))
                whole = len(held) // size * size
                for at in range(0, whole, size):
                    self.rows += 1
                    window = held[at : at + size].tolist()
                    yield {"input_ids": window, "labels": window}
                held = held[whole:]

    def _texts(self, file: TextFile) -> Iterator[Ids]:
        """Ids of each document that is not withheld."""
        for document in documents(file.path):
            watch = Watch(self.protected, file.name) if self.protected is not None else None
            parts = [self.words.encode(each)[0] for each in (watch.through(document) if watch else document)]
            if watch is not None and watch.found() is not None:
                self.withheld += watch.any
            elif any(len(part) for part in parts):
                yield np.concatenate((*parts, [self.words.end_id]))

    def _examples(self, file: TextFile) -> Iterator[tuple[Row, int]]:
        if format_of(file.path) != ".jsonl":
            raise CorpusError(
                f"{file.path} holds text, and a stage {self.stage.kind} takes examples",
                hint='write one JSON object a line into a .jsonl file: {"prompt": "…", "completion": "…"}',
            )
        wanted = "pair" if self.stage.kind == "dpo" else "answer"
        for line, example in examples_of(file.path):
            where = f"{file.path}, line {line}"
            if example.kind != wanted:
                shape = '"chosen" and "rejected"' if wanted == "pair" else '"completion" or "messages"'
                raise CorpusError(
                    f"{where}: a stage {self.stage.kind} takes examples with {shape}, and this one has none",
                    hint="give each kind of stage a folder of its own",
                )
            if self._kept(example.text, example.document, file.name):
                self.withheld += 1
                continue
            row = self._pair(example, where) if wanted == "pair" else self._answer(example, where)
            if row is not None:
                yield row

    def _kept(self, text: str, document: str, path: str) -> bool:
        if self.protected is None:
            return False
        if self.protected.by_document and self.protected.held(sha256(document.encode())) is not None:
            return True
        return self.protected.look((text,), path) is not None

    def _answer(self, example: Any, where: str) -> tuple[Row, int] | None:
        assert self.chat is not None  # noqa: S101 - of every stage with examples
        told, most = self.chat.answered(example, where), self.stage.sequence_length
        ids, learnt = told.ids[:most], told.learnt[:most]
        if not any(learnt[1:]):
            self.dropped += 1
            return None
        self.cut += len(told.ids) > most
        labels = [each if wanted else NOTHING for each, wanted in zip(ids, learnt, strict=True)]
        return {"input_ids": ids, "labels": labels}, len(ids)

    def _pair(self, example: Any, where: str) -> tuple[Row, int] | None:
        assert self.chat is not None  # noqa: S101 - of every stage with examples
        first, second = self.chat.pair(example, where)
        most, at = self.stage.sequence_length, min(first.prompt, second.prompt)
        if at >= most or first.ids[:at] != second.ids[:at]:
            self.dropped += 1
            return None
        self.cut += max(len(first.ids), len(second.ids)) > most
        row = {
            "prompt_ids": first.ids[:at],
            "chosen_ids": first.ids[at:most],
            "rejected_ids": second.ids[at:most],
        }
        return row, 2 * at + len(row["chosen_ids"]) + len(row["rejected_ids"])
