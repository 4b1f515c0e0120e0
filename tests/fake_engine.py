#!/usr/bin/env python3
"""A container engine that starts nothing: put it on PATH as ``docker`` or ``podman``.

It keeps its state in the folder ``$FAKE_ENGINE``, which a test may look into and change:

``calls``           one JSON list per call: the engine's name and its words
``info.json``       ``{name: {template: answer}}``; an engine that is not in there does not work
``images/NAME``     an image
``volumes/NAME``    a volume: its options as JSON
``containers/NAME`` a running container: the process that plays it, and its labels
``run.json``        ``{"status": 0, "waits": false}``: how a container ends, and whether it waits to be stopped; ``"stopped": 0`` is how it ends
                    then, and ``"refuses": true`` starts none
``create.json``     ``{"says": "…", "made": true}``: where it is there, making a volume fails with these words, and whether it was made by somebody else
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

STOPPED = 143
NO_SUCH = 1
_WATCHDOG_SECONDS = 60.0


def main(name: str, words: list[str]) -> int:
    """Record one call and play its part; return its status."""
    state = Path(os.environ["FAKE_ENGINE"])
    with open(state / "calls", "a", encoding="utf-8") as calls:
        calls.write(json.dumps([name, *words]) + "\n")
    if words == ["--version"]:
        print(f"{name} version 0")
        return 0
    part = _PARTS.get(words[0]) or _PARTS[f"{words[0]} {words[1]}"]
    return part(state, name, words)


def _info(state: Path, name: str, words: list[str]) -> int:
    answers = json.loads((state / "info.json").read_text()).get(name)
    if answers is None:
        print("the fake engine does not work", file=sys.stderr)
        return 1
    print(answers.get(_value(words, "--format"), ""))
    return 0


def _build(state: Path, name: str, words: list[str]) -> int:
    (state / "images" / (_value(words, "--tag") or "")).touch()
    print("building")
    return 0


def _image_inspect(state: Path, name: str, words: list[str]) -> int:
    return 0 if (state / "images" / words[-1]).exists() else NO_SUCH


def _volume_create(state: Path, name: str, words: list[str]) -> int:
    options = [word.partition("=") for flag, word in itertools.pairwise(words) if flag == "--opt"]
    failure = json.loads((state / "create.json").read_text()) if (state / "create.json").exists() else {"made": True}
    if failure["made"]:
        (state / "volumes" / words[-1]).write_text(json.dumps({key: value for key, _, value in options}))
    if "says" in failure:
        print(failure["says"], file=sys.stderr)
        return NO_SUCH
    print(words[-1])
    return 0


def _volume_inspect(state: Path, name: str, words: list[str]) -> int:
    volume = state / "volumes" / words[-1]
    if not volume.exists():
        return NO_SUCH
    options = json.loads(volume.read_text())
    print(f"{options.get('type', '')}|{options.get('o', '')}")
    return 0


def _run(state: Path, name: str, words: list[str]) -> int:
    wanted = json.loads((state / "run.json").read_text())
    container = state / "containers" / (_value(words, "--name") or "")
    if wanted.get("refuses"):
        return int(wanted["status"])
    signal.signal(signal.SIGUSR1, lambda *_: sys.exit(wanted.get("stopped", STOPPED)))
    labels = [value for flag, value in itertools.pairwise(words) if flag == "--label"]
    container.write_text("\n".join([str(os.getpid()), *labels]))
    print("the container's output", flush=True)
    try:
        end = time.monotonic() + _WATCHDOG_SECONDS
        while wanted["waits"] and time.monotonic() < end:
            time.sleep(0.02)
    finally:
        container.unlink()
    return int(wanted["status"])


def _stop(state: Path, name: str, words: list[str]) -> int:
    container = state / "containers" / words[-1]
    try:
        os.kill(int(container.read_text().splitlines()[0]), signal.SIGUSR1)
    except IndexError:  # it is just being written
        return NO_SUCH
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return NO_SUCH
    while container.exists():
        time.sleep(0.02)
    return 0


def _ps(state: Path, name: str, words: list[str]) -> int:
    label = (_value(words, "--filter") or "").removeprefix("label=")
    for container in (state / "containers").iterdir():
        try:
            if label in container.read_text().splitlines():
                print(container.name)
        except FileNotFoundError:  # it ended meanwhile
            continue
    return 0


def _rm(state: Path, name: str, words: list[str]) -> int:
    return NO_SUCH


def _value(words: list[str], flag: str) -> str | None:
    return words[words.index(flag) + 1] if flag in words else None


_PARTS: dict[str, Callable[[Path, str, list[str]], int]] = {
    "info": _info,
    "build": _build,
    "image inspect": _image_inspect,
    "volume create": _volume_create,
    "volume inspect": _volume_inspect,
    "run": _run,
    "stop": _stop,
    "ps": _ps,
    "rm": _rm,
}

if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[0]).name, sys.argv[1:]))
