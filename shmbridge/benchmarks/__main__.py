"""The other side of a benchmark, in a process of its own. Started by the benchmark; nobody else needs it."""

from __future__ import annotations

import sys

from shmbridge.benchmarks.peers import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
