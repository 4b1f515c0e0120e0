"""``shmbridge policies``, ``shmbridge envs``: what goes by name here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shmbridge.cli.console import print_table
from shmbridge.cli.flags import make_parser
from shmbridge.registry import Registry
from shmbridge.registry import environments as known_environments
from shmbridge.registry import policies as known_policies


def policies(words: Sequence[str]) -> int:
    """List the policies known by name."""
    make_parser("policies", "List the policies known by name. Others go by package.module:Class or path/to/file.py:Class.").parse_args(words)
    return _list(known_policies, "policy")


def environments(words: Sequence[str]) -> int:
    """List the environments known by name."""
    make_parser("envs", "List the environments known by name. Others go by package.module:Class or path/to/file.py:Class.").parse_args(words)
    return _list(known_environments, "environment")


def _list(registry: Registry[Any], kind: str) -> int:
    rows = [(name, place) for name, place in registry.names().items()]
    if rows:
        print_table((kind, "from"), rows)
    else:
        print(f"no {kind} is installed by name; use package.module:Class or path/to/file.py:Class")
    return 0
