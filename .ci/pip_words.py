#!/usr/bin/env python3
"""Prints words for ``podman build`` that hand this machine's pip configuration to pip in a build: ``pip_words.py FOLDER``.

A configuration may name folders and files of this machine; they are mounted, read-only, where it says that they are. FOLDER gets the
configuration itself; a build mounts it and keeps none of it.
"""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

OPTIONS = ("index-url", "extra-index-url", "find-links", "trusted-host", "proxy", "cert", "timeout", "default-timeout")


def main(folder: Path) -> None:
    """Write the configuration and print the words."""
    options = parse(subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False).stdout)
    config = folder / "pip.conf"
    # As in pip.conf itself, further lines of a value are indented.
    lines = [f"{name} = {' '.join(value.split())}" for name, value in options.items()]
    config.write_text("\n".join(["[global]", "root-user-action = ignore", *lines, ""]))
    mounts = [f"{path}:{path}:ro" for path in local_paths(options)]
    print(shlex.join(["--network=host", *(word for mount in [*mounts, f"{config}:/etc/pip.conf:ro"] for word in ("--volume", mount))]))


def parse(listing: str) -> dict[str, str]:
    """Return option and value out of what ``pip config list`` prints: ``global.cert='…'`` and, taking precedence, ``:env:.cert='…'``."""
    found = re.findall(r"^(global|install|:env:)\.([a-z-]+)=(.*)$", listing, re.MULTILINE)
    found.sort(key=lambda line: ("global", "install", ":env:").index(line[0]))
    return {name: str(ast.literal_eval(value)) for _, name, value in found if name in OPTIONS}


def local_paths(options: dict[str, str]) -> list[Path]:
    """Return the folders and files of this machine that the options name. An index on disk may link to files beside it, so its folder comes too."""
    paths = []
    for name in ("index-url", "extra-index-url", "find-links", "cert"):
        for word in options.get(name, "").split():
            path = Path(word.removeprefix("file://"))
            if path.is_absolute() and path.exists():
                paths.append(path.parent if name.endswith("index-url") and path.parent != Path("/") else path)
    return list(dict.fromkeys(paths))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
