"""Text on its way out: a trainer that puts a canary wherever it can, by mistake or on purpose."""

from __future__ import annotations

import gzip
import json
import struct
from typing import Any

import numpy as np

from tapestry.node import airlock, canaries
from tapestry.node.canaries import Canaries
from tapestry.node.gate import Gate
from tapestry.node.home import Home
from tapestry.node.leaks import Searcher, search
from tapestry.protocol.messages import Progress
from tapestry.training.spool import TextScore, TrainJob, TrainResult
from tests.attacks.catalog import attack, attacks, case
from tests.attacks.outputs import DATA, job_of
from tests.attacks.switches import Switches
from tests.core.support import shards
from tests.node.support import write_output
from tests.node.test_airlock import tried

WHO = "a trainer that carries text out"
Given = tuple[Any, ...]
FORMS = ("tapestry.node.environment.Forms.check", None)
SEARCH = ("tapestry.node.leaks.Leaks.check", None)
SEARCH_FILES = ("tapestry.node.leaks.Leaks.check_file", None)
REASON = ("tapestry.node.gate._reason", None, lambda error: error.message)
DIGITS = ("tapestry.node.outgoing._plain", None, lambda value: value)
NAMES = ("tapestry.node.examiner.Examiner._check_names", "if entry.name not in allowed")


def planted(home: Home) -> Canaries:
    canaries.plant(home, 10, home.root / "train-canaries.txt")
    said = canaries.load(home)
    assert said is not None
    return said


def left(home: Home, marker: str) -> list[str]:
    """Where a canary is, of all that the agent reads or sends."""
    places = (home.egress, home.blobs, home.egress_log)
    return [hit.where for at in places if at.exists() for hit in search(Searcher(marker), at)]


def in_the_weights(encode: Any) -> Any:
    def tamper(home: Home, job: TrainJob, text: str) -> None:
        data, hidden = bytearray(DATA[1]), encode(text)
        data[400 : 400 + len(hidden)] = hidden
        assert len(data) == len(DATA[1])
        write_output(home, job, [DATA[0], bytes(data), DATA[2]])

    return tamper


def in_the_environment(key: str) -> Any:
    return lambda home, job, text: write_output(home, job, DATA, environment={key: text[:60]})


def as_an_unknown_field(home: Home, job: TrainJob, text: str) -> None:
    """An exception text that somebody thought useful."""
    path = write_output(home, job, DATA) / "result.json"
    value = json.loads(path.read_bytes()) | {f"failed at {text}": "1"}
    path.write_bytes(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def as_a_folder(home: Home, job: TrainJob, text: str) -> None:
    write_output(home, job, DATA).rename(home.outputs / f"{text[:25]}.1")


def as_token_ids(text: str) -> bytes:
    return np.frombuffer(text.encode(), np.uint8).astype("<u8").tobytes()


@attacks(
    case(
        "leak-data-set-name",
        "says the name of a data set in place of its processor",
        "the gate knows what the processor is called, and searches what leaves for canaries",
        in_the_environment("cpu"),
        FORMS,
        SEARCH,
    ),
    case(
        "leak-environment-key",
        "makes a key of its environment of a text",
        "closed keys; canaries",
        lambda home, job, text: write_output(home, job, DATA, environment={text[:20]: "1"}),
        FORMS,
        SEARCH,
    ),
    case(
        "leak-exception-text",
        "writes what an exception said as a field that nobody knows, which a refusal would name",
        "a refusal has none of the trainer's words; canaries",
        as_an_unknown_field,
        SEARCH,
        REASON,
    ),
    case(
        "leak-folder-name",
        "names a finished folder by a text, which a refusal would be named by",
        "names are searched for canaries",
        as_a_folder,
        SEARCH,
    ),
    case(
        "leak-text-in-the-weights",
        "writes text into the values of an update",
        "shards are searched for canaries",
        in_the_weights(lambda text: text.encode()),
        SEARCH_FILES,
    ),
    case(
        "leak-token-ids-in-the-weights",
        "writes token ids of 64 bits into the values of an update",
        "shards are searched for canaries, as token ids too",
        in_the_weights(as_token_ids),
        SEARCH_FILES,
    ),
    case(
        "leak-compressed-in-the-weights",
        "writes text compressed by gzip into the values of an update",
        "streams inside of shards are opened, within bounds",
        in_the_weights(lambda text: gzip.compress(text.encode())),
        SEARCH_FILES,
    ),
)
def test_leaks(home: Home, job: TrainJob, switches: Switches, given: Given) -> None:
    tamper, *off = given
    said = planted(home)
    text = said.text(3)
    tamper(home, job, text)
    gate = Gate(home, "all")
    gate.step()
    assert left(home, said.marker) == [] and not home.passed("run", 1).exists()
    told = [json.loads(path.read_bytes()) for path in home.refused.glob("*.json")]
    if tamper is not as_a_folder:  # which is refused without a file of that name
        assert [(one["code"], one["name"]) for one in told] == [("leak", "run.1")]
    write_output(home, job_of(job.plan, 2), shards(3.0))
    gate.step()
    assert home.passed("run", 2).exists(), "all else passes"
    with switches.all_off(*off):
        Gate(home, "all").step()
    assert left(home, said.marker), "it has left"


@attack(
    "leak-undeclared-file",
    tries="puts a file beside the update whose name is a text",
    stopped_by="nothing undeclared passes, names are searched; and no name of a file ever leaves",
)
def test_file_name(home: Home, job: TrainJob, switches: Switches) -> None:
    said = planted(home)
    (write_output(home, job, DATA) / said.text(1)).write_text("")
    Gate(home, "all").step()
    assert json.loads(home.refusal("run", 1).read_bytes())["code"] == "leak"
    with switches.all_off(SEARCH):
        Gate(home, "all").step()
    assert json.loads(home.refusal("run", 1).read_bytes())["code"] == "artifact"
    with switches.all_off(SEARCH, NAMES):
        Gate(home, "all").step()
    assert home.passed("run", 1).exists()
    assert left(home, said.marker) == [], "even then no name has left"


LETTERS = b"qzjxvk"


def spelled(value: float) -> bytes:
    """The letters in the lower digits of a float: 6 of its 8 bytes."""
    return struct.pack("<d", value)[:6]


HIDING = struct.unpack("<d", LETTERS + struct.pack("<d", 3.0)[6:])[0]
"""A plausible score, 3.0-something, whose digits are letters."""


@attack(
    "leak-metric-that-is-text",
    tries="hands in eight letters as the bytes of a score",
    stopped_by="measures are below a million, and letters as a float are far above",
)
def test_metric_of_letters(home: Home, job: TrainJob, switches: Switches) -> None:
    for order in "<>":
        value = struct.unpack(f"{order}d", b"qzjxvkwp")[0]
        assert not 0 <= value <= 1e6
        path = write_output(home, job, DATA) / "result.json"
        path.write_bytes(path.read_bytes().replace(b"3.25", json.dumps(value).encode()))
        Gate(home, "all").step()
        assert not home.passed("run", 1).exists()
        with switches.all_off(("tapestry.node.examiner.TrainResult.from_bytes", None, _any_score), DIGITS):
            Gate(home, "all").step()
        score = json.loads(home.passed("run", 1).read_bytes())["score"]["bits_per_byte"]
        assert struct.pack(f"{order}d", score) == b"qzjxvkwp"
        home.passed("run", 1).unlink()
        home.output("run", 1).rename(home.root / f"done{order == '<'}")


def _any_score(data: bytes) -> TrainResult:
    value = json.loads(data)
    score = value.pop("score")
    result = TrainResult.model_validate_json(json.dumps({**value, "score": None}))
    return result.model_copy(update={"score": TextScore.model_construct(**score)})


@attack(
    "leak-digits-of-a-metric",
    tries="hides six letters in the digits of a plausible score and loss, round by round",
    stopped_by="measures leave with six digits: about 24 bits of the 64",
)
def test_digits(home: Home, job: TrainJob, switches: Switches) -> None:
    score = TextScore(bits_per_byte=HIDING, bytes=1000)
    write_output(home, job, DATA, score=score, loss=HIDING)
    progress = Progress(round=1, step=1, steps=10, loss=HIDING, tokens_per_s=HIDING)
    home.trainer_progress.write_bytes(progress.to_bytes())

    def passed() -> tuple[TrainResult, Progress]:
        Gate(home, "all").step()
        return (
            TrainResult.from_bytes(home.passed("run", 1).read_bytes()),
            Progress.from_bytes(home.progress.read_bytes()),
        )

    def measures() -> list[float]:
        result, moving = passed()
        assert result.score is not None and result.loss and moving.loss and moving.tokens_per_s
        return [result.score.bits_per_byte, result.loss, moving.loss, moving.tokens_per_s]

    assert all(spelled(value) != LETTERS and abs(value - HIDING) < 1e-5 for value in measures())
    home.passed("run", 1).unlink()
    with switches.all_off(DIGITS):
        assert all(spelled(value) == LETTERS for value in measures())


@attack(
    "leak-log-line",
    tries="logs a line of text, and ends with an exception that quotes it",
    stopped_by="logs are not among the agent's files; what an exception says is never sent",
)
def test_log_line(home: Home, job: TrainJob, switches: Switches) -> None:
    """That nothing of it is in a run's traffic: tests/federation/test_leaks.py."""
    said = planted(home)
    home.log("trainer").write_text(f"step 3, text {said.text(1)}\n")
    airlock.prepare(home)
    log = home.log("trainer")
    _, found = tried(home, airlock.agent_files(home), log, home.canaries)
    assert found == {str(log): True, str(home.canaries): True}
    with switches.off("tapestry.node.airlock.agent_files", lambda _: []):
        _, found = tried(home, airlock.agent_files(home), log, home.canaries)
    assert found == {str(log): False, str(home.canaries): False}
    write_output(home, job, DATA)
    Gate(home, "all").step()
    assert home.passed("run", 1).exists() and left(home, said.marker) == []
