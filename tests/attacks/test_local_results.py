"""What lies in a node's folders: a trainer that writes what is not so."""

from __future__ import annotations

from typing import Any

from tapestry.node.home import Home
from tapestry.training.spool import TrainJob
from tests.attacks.catalog import attacks, case
from tests.attacks.outputs import (
    CLAIMS,
    EXAMINER,
    FITS,
    FOUND,
    NAMES,
    RESULT,
    TAKE,
    edited,
    gate_refuses,
    huge_result,
    loose,
    path_in_manifest,
    result_with,
)
from tests.attacks.switches import Switches

WHO = "a trainer, or what lies in its folders"
Given = tuple[Any, ...]
FORMS = ("tapestry.node.environment.Forms.check", None)


@attacks(
    case(
        "gate-metric-not-a-number",
        "writes NaN as a score",
        "metrics are finite and bounded",
        edited("result.json", b"3.25", b"NaN"),
        RESULT,
    ),
    case(
        "gate-metric-too-large",
        "hides text in the digits of a score",
        "metrics are finite and bounded",
        edited("result.json", b"3.25", b"3e7"),
        RESULT,
    ),
    case(
        "gate-text-in-the-environment",
        "writes a line of text as its environment",
        "its keys and their words are listed",
        edited("result.json", b'"environment":{}', b'"environment":{"note":"a raw text\\n"}'),
        RESULT,
        FORMS,
    ),
    case(
        "gate-unknown-field",
        "writes a field with text",
        "closed schemas",
        edited("result.json", b'"environment":{}', b'"environment":{},"extra":"raw text"'),
        RESULT,
    ),
    case(
        "gate-path-in-the-manifest",
        "names a shard `../../../secret`",
        "addresses are 64 hexadecimal digits",
        path_in_manifest,
        ("tapestry.node.examiner.Artifact.from_bytes", None, lambda data: loose(data)),
        FITS,
        FOUND,
        NAMES,
        TAKE,
    ),
    case(
        "gate-manifest-of-another-hash",
        "changes the manifest after the result was written",
        "the result names the manifest's hash",
        edited("delta.json", b'"delta"', b'"bases"'),
        (f"{EXAMINER}._manifest", "(actual := canonical.sha256(data)) != digest"),
        ("tapestry.node.examiner.Artifact.from_bytes", None, lambda data: loose(data)),
        FITS,
    ),
    case(
        "gate-too-many-tokens",
        "claims tokens no round has",
        "held against the plan before anything is signed",
        result_with(tokens=1 << 40),
        CLAIMS,
    ),
    case(
        "gate-too-many-steps",
        "claims steps no round has",
        "held against the plan before anything is signed",
        result_with(steps=1000),
        CLAIMS,
    ),
    case(
        "gate-training-that-was-none",
        "hands over a delta of no tokens",
        "a delta has steps and tokens",
        result_with(tokens=0),
        (f"{EXAMINER}._check_result", "result.delta is not None and not (result.tokens and result.steps)"),
    ),
    case(
        "gate-result-of-another-run",
        "writes the result of another run",
        "the result names the folder's run",
        result_with(run="other"),
        (f"{EXAMINER}.examine", "(result.run, result.round) != named"),
        (f"{EXAMINER}._check_result", "result.run != plan.run"),
    ),
    case(
        "gate-result-of-another-round",
        "writes the result of another round",
        "the result names the folder's round",
        result_with(round=7),
        (f"{EXAMINER}.examine", "(result.run, result.round) != named"),
    ),
    case(
        "gate-oversize-result",
        "writes a megabyte of blanks into its result",
        "read with a cap of 16 KiB",
        huge_result,
        RESULT,
        ("tapestry.node.examiner.MAX_RESULT_BYTES", None, 2 << 20),
    ),
)
def test_results(home: Home, job: TrainJob, switches: Switches, given: Given) -> None:
    gate_refuses(home, job, switches, given)
