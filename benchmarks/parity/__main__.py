"""`python -m benchmarks.parity`: train with every method, and say what each costs in loss and in bytes."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

EXAMPLE = """examples:
  python -m benchmarks.parity --out parity --setting tiny
  python -m benchmarks.parity --out parity --setting small --corpora CORPORA --seeds 3 --minutes 60
  python -m benchmarks.parity --out parity --report

CORPORA holds a folder a language, each with a train and a valid split (docs/guides/corpora.md). Trials that
are done stay in OUT/trials.jsonl and never run again: call it as often as needed.
"""


def parser() -> argparse.ArgumentParser:
    from benchmarks.parity.methods import METHODS, SETTINGS

    made = argparse.ArgumentParser(
        prog="python -m benchmarks.parity",
        description="Loss against bytes at equal tokens: synchronous data parallel, training alone and "
        "training in rounds, one member a language, all from one initial artifact.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of trials and report")
    made.add_argument("--corpora", type=Path, metavar="DIR", help="a folder a language; tiny makes text up")
    made.add_argument("--setting", choices=SETTINGS, default="tiny", help="how large (tiny)")
    made.add_argument("--languages", metavar="N|NAMES", help="how many, or names with commas between")
    made.add_argument(
        "--only",
        choices=METHODS,
        nargs="+",
        default=list(METHODS),
        metavar="METHOD",
        help=f"of: {', '.join(METHODS)}",
    )
    made.add_argument("--seeds", type=_count, default=1, metavar="N", help="paired seeds, 0 to N − 1 (1)")
    made.add_argument("--rates", type=_rates, metavar="LIST", help="learning rates to try, of every method")
    made.add_argument(
        "--tuning-share",
        type=_share,
        default=1.0,
        metavar="X",
        help="of the tokens, for the trials that choose the knobs (1)",
    )
    made.add_argument("--minutes", type=float, metavar="N", help="begin no trial after so long")
    made.add_argument("--threads", type=_count, default=2, metavar="N", help="of torch (2)")
    made.add_argument("--device", default="cpu", help="where models are trained (cpu)")
    made.add_argument("--report", action="store_true", help="train nothing; write report.md and plots to DIR")
    made.add_argument("--json", action="store_true", help="print the table as JSON")
    return made


def _count(given: str) -> int:
    if not given.isdecimal() or int(given) < 1:
        raise argparse.ArgumentTypeError(f"{given!r} is not a count of at least 1")
    return int(given)


def _share(given: str) -> float:
    try:
        value = float(given)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{given!r} is not above 0 and at most 1")
    return value


def _rates(given: str) -> tuple[float, ...]:
    try:
        found = tuple(sorted({float(each) for each in given.split(",")}))
    except ValueError:
        found = ()
    if not found or found[0] <= 0:
        raise argparse.ArgumentTypeError(f"{given!r} are not rates above 0, as in 1e-3,2e-3")
    return found


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _device(name: str) -> Any:
    """Raises `SettingsError` where torch has none of this name."""
    import torch

    from tapestry.errors import SettingsError

    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as e:
        raise SettingsError(f"there is no device {name}", hint="as in cpu or cuda") from e
    return device


def _train(given: argparse.Namespace, until: float) -> bool:
    """All trials that are asked for; False where the time did not suffice."""
    import torch

    from benchmarks.parity import text
    from benchmarks.parity.methods import METHODS, SETTINGS
    from benchmarks.parity.simulate import World
    from benchmarks.parity.trials import Bench, Book
    from tapestry.errors import SettingsError
    from tapestry.host import files

    torch.set_num_threads(given.threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    setting = SETTINGS[given.setting]
    if given.corpora is None and not setting.made_up:
        raise SettingsError(f"setting {setting.name} needs text", hint="give --corpora, a folder a language")
    given.out.mkdir(parents=True, exist_ok=True)
    with files.Lock(given.out), tempfile.TemporaryDirectory(dir=given.out, prefix="scratch-") as folder:
        scratch = Path(folder)
        if given.corpora is None:
            folders = text.make_up(scratch / "text", given.languages, setting.languages)
        else:
            folders = text.choose(given.corpora, given.languages, setting.languages)
        world = World(
            setting=setting,
            corpora=text.read(folders, given.out / "cache"),
            scratch=scratch,
            device=_device(given.device),
        )
        bench = Bench(
            world=world,
            book=Book(given.out),
            rates=given.rates,
            seeds=given.seeds,
            share=given.tuning_share,
            until=until,
            say=_say,
        )
        return bench.conduct([name for name in METHODS if name in given.only])


def main(argv: list[str]) -> int:
    started = time.monotonic()
    given = parser().parse_args(argv)

    from benchmarks.parity import compare, figures, report
    from benchmarks.parity.trials import Book
    from tapestry.errors import TapestryError
    from tapestry.host import files

    try:
        until = started + 60 * given.minutes if given.minutes is not None else float("inf")
        if not given.report and not _train(given, until):
            _say("time is up; call it again to go on")
        comparisons = compare.compare(Book(given.out).records)
        text = report.text(comparisons)
        if given.report:
            given.out.mkdir(parents=True, exist_ok=True)
            files.write_atomic(given.out / "report.md", text.encode())
            drawn = [path for one in comparisons for path in figures.draw(one, given.out)]
            for path in (given.out / "report.md", *drawn):
                _say(f"written: {path}")
        if given.json:
            print(json.dumps([one.as_json() for one in comparisons], indent=2, ensure_ascii=False))
        else:
            print(text, end="")
    except TapestryError as e:
        _say(f"error: {e.message}" + (f"\nhint: {e.hint}" if e.hint else ""))
        return e.exit_code
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("stopped")
