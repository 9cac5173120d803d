"""One evaluation: models one after the other in memory, the same texts and prompts for each; a report."""

from __future__ import annotations

import datetime
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeVar

from tapestry import __version__
from tapestry.catalog.protected import Protected
from tapestry.errors import EvaluationError
from tapestry.host import isolation
from tapestry.protocol.clock import format_time
from tapestry.sovereign.constitution import Constitution
from tapestry.sovereign.evaluation import asking, given, memorized, seen, survey, tasks, texts
from tapestry.sovereign.evaluation.candidate import Candidate
from tapestry.sovereign.evaluation.outcome import Figures, Outcome
from tapestry.sovereign.evaluation.report import (
    Data,
    Distance,
    EvaluationReport,
    Overlap,
    Position,
    Role,
    Subject,
)
from tapestry.sovereign.evaluation.resampling import RESAMPLES
from tapestry.sovereign.evaluation.seen import Training
from tapestry.sovereign.evaluation.texts import Text
from tapestry.sovereign.gates import Gates
from tapestry.sovereign.serve.loading import context_of
from tapestry.training.leakage.figures import CONFIDENCE
from tapestry.training.leakage.measure import Canary

MAX_WINDOW: Final = 1024
"""Tokens of text in one window, at most."""
Tell = Callable[[str], None]
Kind = Literal["constitution", "instructions", "pairs", "survey"]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What to evaluate with; what is not given is left out of the report.

    Args:
        models: folders by role; `model` is one of them.
        texts: held-out text by language.
        trained: corpus folder that the model was trained on, for what it has memorized.
        protected: what of that folder was not trained on.
        canaries: planted in that text, with the letters of their secrets.
        constitution: file of it; instructions, pairs and survey as well.
        tasks: folders of tasks.
        task_names: all that the folders hold where none is named.
        training: text that the build was trained on, to look whether what is held out is in it.
        gates: held against the figures.
        data: what the text is, for the report.
        answer_tokens: of an answer, at most.
        passages: of training text that are looked at.
        candidates: that each canary is ranked among.
        task_limit: items of each task, if not all.
    """

    models: Mapping[Role, Path]
    texts: tuple[Text, ...] = ()
    trained: Path | None = None
    protected: Protected | None = None
    canaries: tuple[Canary, ...] = ()
    canary_alphabet: str = ""
    constitution: Path | None = None
    instructions: Path | None = None
    pairs: Path | None = None
    survey: Path | None = None
    tasks: tuple[Path, ...] = ()
    task_names: tuple[str, ...] = ()
    training: Training | None = None
    gates: Gates | None = None
    data: tuple[Data, ...] = ()
    seed: int = 0
    resamples: int = RESAMPLES
    answer_tokens: int = 128
    passages: int = 200
    candidates: int = 255
    task_limit: int | None = None
    device: Literal["cpu", "cuda"] = "cpu"

    @property
    def empty(self) -> bool:
        """Whether there is nothing to evaluate with."""
        given_ = (self.texts, self.canaries, self.tasks, self.task_names)
        paths = (self.trained, self.constitution, self.instructions, self.pairs, self.survey)
        return not any(given_) and all(each is None for each in paths)


def evaluate(asked: Asked, tell: Tell = lambda _: None) -> EvaluationReport:
    """The report.

    Args:
        asked: what is evaluated with what.
        tell: hears what is being done.

    Raises:
        EvaluationError: a file of a wrong shape, or nothing to evaluate with.
        ModelError: a model that cannot be opened.
        CorpusError, ConstitutionError: as they say.
    """
    if asked.empty:
        raise EvaluationError(
            "there is nothing to evaluate with",
            hint="give --texts, --node, --tasks, --pairs, --instructions, --survey or --constitution",
        )
    return _Work(asked, tell).run()


class _Work:
    """All files are read before any model: what is wrong with one is said at once."""

    def __init__(self, asked: Asked, tell: Tell) -> None:
        self._asked, self._tell = asked, tell
        self._figures = Figures(seed=asked.seed, resamples=asked.resamples, confidence=CONFIDENCE)
        self._data = list(asked.data)
        self._notes: list[str] = []
        self._constitution = self._read("constitution", asked.constitution, Constitution.load)
        self._instructions = self._read("instructions", asked.instructions, given.instructions)
        self._pairs = self._read("pairs", asked.pairs, given.pairs)
        self._survey = self._read("survey", asked.survey, survey.load)
        self._tasks = tasks.find(asked.tasks, asked.task_names) if asked.tasks or asked.task_names else None
        self._data += self._tasks.data if self._tasks is not None else ()
        self._passages = self._drawn()
        self._overlaps = self._seen()
        self._taken: dict[Role, survey.Taken] = {}
        self._window = MAX_WINDOW

    def _read(self, kind: Kind, path: Path | None, read: Callable[[Path], T]) -> T | None:
        if path is None:
            return None
        found = read(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self._data.append(Data(kind=kind, name=path.name[:200], sha256=digest, card=None))
        return found

    def _drawn(self) -> list[tuple[str, str]]:
        folder = self._asked.trained
        if folder is None:
            return []
        found = memorized.passages(folder, self._asked.passages, self._asked.seed, self._asked.protected)
        if not found:
            raise EvaluationError(
                f"the training text in {folder} is too short to look for what was memorized",
                hint=f"a document needs {memorized.BEFORE_BYTES + memorized.NEXT_BYTES} bytes",
            )
        return found

    def _seen(self) -> tuple[Overlap, ...]:
        training, pairs = self._asked.training, self._asked.pairs
        if training is None:
            return ()
        self._tell(f"whether it was trained on it: {len(training.files)} files")
        of_pairs = {pairs.name[:200]: self._pairs} if pairs is not None and self._pairs is not None else {}
        found = tuple(seen.overlaps(training, self._asked.texts, of_pairs))
        self._notes += seen.notes(training, found)
        return found

    def run(self) -> EvaluationReport:
        """Every model, then the figures."""
        subjects: list[Subject] = []
        outcomes: dict[Role, list[Outcome]] = {}
        # One window for all, so that no model sees more of a text than another.
        self._window = min(MAX_WINDOW, *(context_of(each) for each in self._asked.models.values()))
        for role, folder in self._asked.models.items():
            self._tell(f"{role}: {folder}")
            model = Candidate(role, folder, self._asked.device)
            subjects.append(model.subject())
            outcomes[role] = list(self._outcomes(model))
            del model
        return self._report(subjects, outcomes)

    def _outcomes(self, model: Candidate) -> Iterator[Outcome]:
        asked = self._asked
        for text in asked.texts:
            self._tell(f"{model.role}: bits per byte of {text.language}")
            found = texts.measure(model, text, self._window)
            yield Outcome(measure="bits-per-byte", part=text.language, above=found.bits, below=found.bytes)
        if self._instructions is not None:
            self._tell(f"{model.role}: {len(self._instructions)} instructions")
            yield from asking.instructions(model, self._instructions, asked.answer_tokens)
        if self._pairs is not None:
            self._tell(f"{model.role}: {len(self._pairs)} pairs")
            yield from asking.preferences(model, self._pairs)
        if self._constitution is not None:
            self._tell(f"{model.role}: cases of the constitution")
            yield from asking.constitution(model, self._constitution, asked.answer_tokens)
        if self._passages:
            self._tell(f"{model.role}: {len(self._passages)} passages of training text")
            yield memorized.verbatim(model, self._passages)
        if asked.canaries:
            yield memorized.exposed(
                model, asked.canaries, asked.canary_alphabet, asked.candidates, asked.seed
            )
        if self._survey is not None:
            self._tell(f"{model.role}: {len(self._survey.questions)} questions of the survey")
            yield from self._surveyed(model, self._survey)
        if self._tasks is not None:
            self._tell(f"{model.role}: tasks")
            with tempfile.TemporaryDirectory(prefix="tapestry-tasks-") as cache:
                yield from tasks.run(model, self._tasks, asked.task_limit, Path(cache))

    def _surveyed(self, model: Candidate, given_: survey.Survey) -> Iterator[Outcome]:
        taken = self._taken[model.role] = survey.take(model, given_, self._asked.seed)
        for community in given_.communities:
            away = survey.distances(given_, community, taken.shares)
            part = "" if community == given_.target else community
            yield Outcome(measure="survey-distance", part=part, above=away)
        if model.parameters < survey.NOISE_BELOW:
            self._notes.append(
                f"survey: {model.role} has {model.parameters:,} parameters; below about one thousand million "
                "its answers are noise, and neither position nor distance says anything of values"
            )
        self._notes.append(
            f"survey: of {model.role}, another order of the options moves an answer by "
            f"{taken.unrest:.2f} (Jensen-Shannon) from the average of all orders"
        )

    # -- the report -----------------------------------------------------------------------------------------

    def _report(self, subjects: list[Subject], outcomes: dict[Role, list[Outcome]]) -> EvaluationReport:
        asked = self._asked
        for text in asked.texts:
            if not texts.by_document(text):
                self._notes.append(
                    f"bits per byte of {text.language}: {len(text.documents)} documents are few, so pieces "
                    f"of {texts.PIECE_BYTES} bytes are resampled; pieces of one document are alike, and the "
                    "interval is narrower than it should be"
                )
        report = EvaluationReport(
            at=format_time(datetime.datetime.now(datetime.UTC)),
            release=__version__,
            confidence=CONFIDENCE,
            resamples=asked.resamples,
            seed=asked.seed,
            isolation=isolation.measure(),
            subjects=tuple(subjects),
            data=tuple(self._data),
            figures=tuple(self._figures.figure(role, one) for role in outcomes for one in outcomes[role]),
            changes=tuple(self._figures.changes(outcomes)),
            positions=tuple(self._positions()),
            distances=tuple(self._distances()),
            answered=tuple(each for one in outcomes["model"] for each in one.answered),
            notes=tuple(self._notes),
            gates=None if asked.gates is None else asked.gates.digest,
            unmet=(),
            overlaps=self._overlaps,
        )
        if asked.gates is None:
            return report
        return report.model_copy(update={"unmet": tuple(asked.gates.unmet(report))})

    def _positions(self) -> Iterator[Position]:
        if self._survey is None:
            return
        counts = {
            scale: sum(each.scale == scale for each in self._survey.questions)
            for scale in self._survey.scales
        }
        draws = {scale: self._figures.draws(count) for scale, count in counts.items() if count}
        for role, taken in self._taken.items():
            yield from survey.positions(self._survey, role, taken.shares, draws)
        for community in self._survey.communities:
            yield from survey.positions(self._survey, community, None, draws)

    def _distances(self) -> list[Distance]:
        if self._survey is None:
            return []
        return survey.beside(self._survey, self._figures.draws(len(self._survey.questions)))
