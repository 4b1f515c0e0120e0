"""``python -m shmbridge``: the command, for interpreters without console scripts on PATH."""

import sys

from shmbridge.cli import main

sys.exit(main())
