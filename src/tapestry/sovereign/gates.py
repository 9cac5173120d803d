"""Release gates: bounds on the figures of an evaluation, without which a build is not released.

The table `[gates]` of a recipe, or a file of its own. A gate whose figure was not measured is not met.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError

from tapestry.catalog.words import Language
from tapestry.errors import EvaluationError, GateNotMet, TapestryError
from tapestry.host import files
from tapestry.protocol import canonical, toml
from tapestry.protocol.leakage import Interval
from tapestry.protocol.message import Part
from tapestry.sovereign.evaluation.report import EvaluationReport, Measure, Role, Unmet

MAX_FILE_BYTES: Final = 1 << 20
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=False)]
Gain = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False, strict=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=False)]
Finite = Annotated[float, Field(allow_inf_nan=False, strict=False)]
TaskName = Annotated[str, Field(min_length=1, max_length=200)]


class Gates(Part):
    """Bounds; what is left out is not asked for. Shares and gains are fractions: 0.03 is 3 %."""

    cautious: bool = False
    """Whether the worse end of each interval has to meet the bound, and not only the figure itself."""
    bits_per_byte: Annotated[dict[Language, Positive], Field(max_length=100)] = Field(default_factory=dict)
    """At most, by language."""
    gain_over_base: Gain | None = None
    """In bits per byte, of every language at least."""
    gain_over_previous: Gain | None = None
    gain_over_alone: Gain | None = None
    instructions: Share | None = None
    """Followed, at least."""
    preferences: Share | None = None
    """Held-out pairs of which the better answer is the likelier, at least."""
    constitution: Share | None = None
    """Cases in which no rule of the constitution is broken, at least."""
    refusals: Share | None = None
    """Of the cases of refusals, at least."""
    still_answered: Share | None = None
    """Of the prompts that look alike and are answered, at least."""
    refusals_lost: Share | None = None
    """Against the base, at most."""
    memorized: Share | None = None
    """Training documents that are continued word by word, at most."""
    memorized_more: Share | None = None
    """Than the base does, at most."""
    exposure: Positive | None = None
    """Of canaries, in bits, at most."""
    survey_distance: Share | None = None
    """To the target community, at most."""
    tasks: Annotated[dict[TaskName, Finite], Field(max_length=1000)] = Field(default_factory=dict)
    """By `task` or `task:metric`, at least."""

    @property
    def digest(self) -> str:
        return canonical.sha256(canonical.encode(self.model_dump(mode="json")))

    @classmethod
    def load(cls, path: Path) -> Gates:
        """Of a TOML file: its table `[gates]` where it has one, else all of it. Raises `EvaluationError`."""
        hint = "the gates are in docs/guides/evaluation.md"
        try:
            data = files.read_limited(path, MAX_FILE_BYTES)
        except (OSError, TapestryError) as e:
            raise EvaluationError(f"{path} cannot be read: {e}", hint=hint) from e
        value, text = toml.parse(
            data, what=str(path), max_bytes=MAX_FILE_BYTES, error=EvaluationError, hint=hint
        )
        table: Any = value.get("gates", value)
        try:
            found = cls.model_validate(toml.as_tuples(table))
        except ValidationError as e:
            raise EvaluationError(toml.describe(e, text, str(path)), hint=hint) from e
        if not found.model_fields_set - {"cautious"}:
            raise EvaluationError(f"{path} states no gate", hint="write, say: gain_over_base = 0.03")
        return found

    def unmet(self, report: EvaluationReport) -> list[Unmet]:
        """Every gate that the report's figures do not meet, or do not tell."""
        return list(_Held(self, report).all())

    def check(self, report: EvaluationReport) -> None:
        """Raise `GateNotMet` naming the first gate not met, what it wants and what was measured."""
        refuse(self.unmet(report))


def refuse(unmet: Sequence[Unmet]) -> None:
    """Raise `GateNotMet` where a gate is not met."""
    if not unmet:
        return
    first = unmet[0]
    part = f" ({first.part})" if first.part else ""
    more = (
        f"; and {len(unmet) - 1} more: " + ", ".join(_name(each) for each in unmet[1:8]) if unmet[1:] else ""
    )
    raise GateNotMet(
        f"the gate {first.gate}{part} wants {first.wanted}, and the evaluation gives {first.got}{more}",
        hint="train further, or have the owner change the gates; the report of tapestry eval has all figures",
    )


def _name(unmet: Unmet) -> str:
    return f"{unmet.gate} ({unmet.part})" if unmet.part else unmet.gate


class _Held:
    """Gates, held against one report."""

    def __init__(self, gates: Gates, report: EvaluationReport) -> None:
        self._gates, self._report = gates, report

    def all(self) -> Iterator[Unmet]:
        gates = self._gates
        for language, bound in gates.bits_per_byte.items():
            yield from self._figure("bits_per_byte", "bits-per-byte", bound, "most", language)
        for over in ("base", "previous", "alone"):
            yield from self._gain(f"gain_over_{over}", over, getattr(gates, f"gain_over_{over}"))
        yield from self._figure("instructions", "instructions", gates.instructions, "least")
        yield from self._figure("preferences", "preferences", gates.preferences, "least")
        yield from self._figure("constitution", "constitution", gates.constitution, "least")
        yield from self._figure("refusals", "refusals", gates.refusals, "least")
        yield from self._figure("still_answered", "still-answered", gates.still_answered, "least")
        yield from self._figure("memorized", "memorized", gates.memorized, "most")
        yield from self._figure("exposure", "exposure", gates.exposure, "most")
        yield from self._figure("survey_distance", "survey-distance", gates.survey_distance, "most")
        yield from self._change("refusals_lost", "refusals", gates.refusals_lost, -1)
        yield from self._change("memorized_more", "memorized", gates.memorized_more, 1)
        for task, bound in gates.tasks.items():
            yield from self._figure("tasks", "task", bound, "least", task)

    def _figure(
        self, gate: str, measure: Measure, bound: float | None, side: Literal["least", "most"], part: str = ""
    ) -> Iterator[Unmet]:
        if bound is None:
            return
        found = [each for each in self._report.find(measure) if _is(each.part, part)]
        if not found:
            yield _not_measured(gate, part, bound, side)
        for each in found:
            yield from self._hold(gate, each.part, each.value, bound, side)

    def _gain(self, gate: str, over: Role, bound: float | None) -> Iterator[Unmet]:
        """Every language that the model was scored in has to be compared, and to have gained."""
        if bound is None:
            return
        gains = {each.part: each.value for each in self._report.changed("bits-per-byte", over)}
        languages = [each.part for each in self._report.find("bits-per-byte")]
        if not languages:
            yield _not_measured(gate, "", bound, "least")
        for language in languages:
            if language in gains:
                yield from self._hold(gate, language, gains[language], bound, "least")
            else:
                yield _not_measured(gate, language, bound, "least")

    def _change(self, gate: str, measure: Measure, bound: float | None, sign: int) -> Iterator[Unmet]:
        """A change against the base for the worse, which is positive after `sign`."""
        if bound is None:
            return
        found = [each for each in self._report.changed(measure, "base") if each.part == ""]
        if not found:
            yield _not_measured(gate, "", bound, "most")
        for each in found:
            value = each.value if sign > 0 else _negative(each.value)
            yield from self._hold(gate, each.part, value, bound, "most")

    def _hold(
        self, gate: str, part: str, got: Interval, bound: float, side: Literal["least", "most"]
    ) -> Iterator[Unmet]:
        worse = got.low if side == "least" else got.high
        held = worse if self._gates.cautious else got.value
        if held < bound if side == "least" else held > bound:
            yield Unmet(
                gate=gate, part=part, wanted=_wanted(bound, side, self._gates.cautious), got=_said(got)
            )


def _is(name: str, wanted: str) -> bool:
    """Whether a figure's part is what a gate names: `task` stands for `task:acc` too."""
    return name == wanted or (wanted != "" and name.partition(":")[0] == wanted)


def _negative(one: Interval) -> Interval:
    return Interval(value=-one.value, low=-one.high, high=-one.low)


def _wanted(bound: float, side: str, cautious: bool) -> str:
    end = ", at the worse end of the interval too" if cautious else ""
    return f"at {side} {bound:g}{end}"


def _said(got: Interval) -> str:
    return f"{got.value:.4g} ({got.low:.4g} to {got.high:.4g})"


def _not_measured(gate: str, part: str, bound: float, side: str) -> Unmet:
    return Unmet(gate=gate, part=part, wanted=f"at {side} {bound:g}", got="no figure: it was not measured")
