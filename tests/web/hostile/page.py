"""docs/security/dashboard.md: its table is written from the classes.

python -m tests.web.hostile.page
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.web.hostile.classes import CLASSES
from tests.web.hostile.switches import CHECKS

PAGE: Final = Path(__file__).parents[3] / "docs" / "security" / "dashboard.md"
BEGIN, END = "<!-- classes -->\n", "<!-- end of classes -->\n"


def table() -> str:
    lines = ["| check | what is sent |", "|---|---|"]
    for check, (_, words) in CHECKS.items():
        sent = "; ".join(each.what for each in CLASSES if each.check == check)
        lines.append(f"| {words} | {sent.replace('|', '/')} |")
    return f"{len(CLASSES)} classes, {len(CHECKS)} checks.\n\n" + "\n".join(lines) + "\n"


def written() -> str:
    """The page as it should be."""
    text = PAGE.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table() + END + after


if __name__ == "__main__":
    PAGE.write_text(written(), "utf-8")
