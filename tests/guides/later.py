"""`tapestry`, whose core tells a later time: so that a vote of two weeks takes no time in a test."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tapestry.cli.main import main
from tests.cli.test_proposal import _on_a_clock_of_its_own

if __name__ == "__main__":
    _on_a_clock_of_its_own(Path(os.environ["TAPESTRY_TEST_LATER"]))
    sys.exit(main())
