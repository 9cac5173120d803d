"""`python -m tapestry.replay BLOB_ROOT [--threads N]`."""

import sys

from tapestry.replay.worker import main

sys.exit(main(sys.argv[1:]))
