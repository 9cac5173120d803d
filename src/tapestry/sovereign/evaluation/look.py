"""Words and looks of the page of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tapestry.sovereign.evaluation.report import Measure, Role

POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
"""Of the page: it runs nothing and fetches nothing."""
STYLE: Final = """
:root { color-scheme: light dark; --ink: #1b2430; --soft: #5b6675; --line: #dde2e8; --paper: #fbfaf7;
  --card: #fff; --back: #e9ecf0; --model: #1f6f54; --base: #7b8794; --previous: #3f6fb5; --alone: #a35b00;
  --community: #7a4fa3; --good: #1f6f54; --bad: #a1283f }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a3acb8; --line: #333b46;
  --paper: #14181d; --card: #1b2026; --back: #2b323b; --model: #6fcf9f; --base: #8e99a6; --previous: #8ab4f8;
  --alone: #f0b35e; --community: #c3a3e8; --good: #6fcf9f; --bad: #f08a9a } }
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, "DejaVu Sans", sans-serif }
main { max-width: 76rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.01em }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem }
p, li { max-width: 52rem } .lead, small { color: var(--soft) } small { display: block; font-weight: 400 }
.verdict { padding: .8rem 1.1rem; border-radius: 6px; border-left: 5px solid var(--tone); font-weight: 600;
  background: var(--card); max-width: none }
.met { --tone: var(--good) } .unmet { --tone: var(--bad) } .none { --tone: var(--base) }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  margin: .8rem 0 }
table { border-collapse: collapse; width: 100%; font-size: .9rem }
th, td { text-align: left; padding: .5rem .8rem; border-bottom: 1px solid var(--line); vertical-align: top }
tr:last-child td { border-bottom: 0 } th { color: var(--soft); font-weight: 600; white-space: nowrap }
td.n { font-variant-numeric: tabular-nums; white-space: nowrap } td.p { overflow-wrap: anywhere }
code { font: .85rem/1.5 ui-monospace, "DejaVu Sans Mono", monospace }
svg { display: block; margin-top: .25rem } .back { fill: var(--back) }
.model { fill: var(--model) } .base { fill: var(--base) } .previous { fill: var(--previous) }
.alone { fill: var(--alone) } .community { fill: var(--community) }
.reach { stroke: var(--ink); stroke-width: 1.4; fill: none } .axis { stroke: var(--line); stroke-width: 2 }
.dot { display: inline-block; width: .7rem; height: .7rem; border-radius: 50%; margin-right: .5rem }
.dot.model { background: var(--model) } .dot.base { background: var(--base) }
.dot.previous { background: var(--previous) } .dot.alone { background: var(--alone) }
.dot.community { background: var(--community) }
.better { color: var(--good) } .worse { color: var(--bad) } .same { color: var(--soft) }
summary { cursor: pointer; color: var(--soft) }
"""
LEAD: Final = (
    "Figures of this build beside what it came from, on the same texts and prompts. Behind each value is the "
    "interval of {:.0f} % that resampling or counting gives it: how much depends on which texts and prompts "
    "were at hand, and nothing of how well these stand for others."
)
SURVEY: Final = (
    "The mean value of the answers on each scale, from its lowest option to its highest. What a model "
    "answers to such questions is no conviction, and depends on how they are put."
)
BESIDE: Final = (
    "To read the distances above by: how far others are from the target community, and how far it would be "
    "to answer at random."
)
NO_ISOLATION: Final = (
    "the models were loaded on a machine whose kernel gave no network of their own to do without; nothing in "
    "the evaluation uses one"
)
ROLES: Final[dict[Role, str]] = {
    "model": "this build",
    "base": "base",
    "previous": "build before",
    "alone": "training alone",
}
SHORT: Final[dict[Role, str]] = {**ROLES, "previous": "the build before", "base": "the base"}


@dataclass(frozen=True)
class What:
    """A measure in words."""

    title: str
    part: str
    unit: str
    told: str


MEASURES: Final[dict[Measure, What]] = {
    "bits-per-byte": What(
        "Bits per byte of held-out text",
        "language",
        "documents or pieces",
        "How much a text surprises the model. The gain is the part of the other's bits that is saved.",
    ),
    "instructions": What(
        "Instructions followed", "language", "prompts", "Prompts whose answer keeps to all that was asked."
    ),
    "preferences": What(
        "Preferences", "language", "pairs", "Held-out pairs of which the better answer is the likelier one."
    ),
    "preferences-by-length": What(
        "Preferences, by length", "language", "pairs", "The same with the answers' likelihood for each byte."
    ),
    "constitution": What(
        "Constitution", "entry", "cases", "Answers that break nothing of the entry that the prompt is of."
    ),
    "refusals": What(
        "Refusals", "entry", "cases", "Prompts that the constitution refuses and the model does too."
    ),
    "still-answered": What(
        "Answered all the same", "entry", "cases", "Prompts that look like refused ones, and are answered."
    ),
    "memorized": What(
        "Training text, word by word",
        "",
        "passages",
        "Passages of the training text that the model goes on with as they stand.",
    ),
    "exposure": What(
        "Canaries",
        "",
        "canaries",
        "Bits by which lines that were planted in the text stand out; about 1.4 by chance.",
    ),
    "survey-distance": What(
        "Distance to communities",
        "community",
        "questions",
        "Jensen-Shannon distance of the answers, 0 to 1; `all` is the target community.",
    ),
    "task": What(
        "Tasks", "task and metric", "items", "By lm-evaluation-harness, from files on this machine."
    ),
}
