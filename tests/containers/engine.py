"""The container engine that the tests drive: docker or podman, whichever works here."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("docker", "podman")
BUILD_WORDS = "SHMBRIDGE_BUILD_WORDS"
"""An environment variable with further words for ``docker/build.sh SIDE -- …``, as a shell takes them."""
TMPFS = ("--driver", "local", "--opt", "type=tmpfs", "--opt", "device=tmpfs")
PAGE = 4096
_ASK_SECONDS = 60.0
_TAIL_CHARACTERS = 6000


class EngineError(AssertionError):
    """A call of the engine failed; the text holds the command and the end of what it printed."""


@dataclass(frozen=True)
class Engine:
    """A container engine's command line.

    Attributes:
        name: ``docker`` or ``podman``.
        version: What it says of itself.
    """

    name: str
    version: str

    def call(self, *words: str | Path, timeout: float = 120.0, check: bool = True, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run the engine with ``words``, ended after ``timeout`` seconds; return status and output.

        Raises:
            EngineError: It ended with another status than 0, and ``check`` is set; or not in time.
        """
        return run([self.name, *words], timeout=timeout, check=check, stdin=stdin)

    def inspect(self, what: str, template: str) -> str:
        """Return one value about a container, an image or a volume, as in ``inspect("name", "{{.State.Pid}}")``."""
        return self.call("inspect", "--format", template, what).stdout.strip()

    def exists(self, kind: str, name: str) -> bool:
        """Whether there is a ``container``, ``image``, ``volume`` or ``network`` of this name."""
        return self.call(kind, "inspect", name, check=False).returncode == 0

    def logs(self, container: str) -> str:
        """Return all that a container wrote, on both streams."""
        finished = self.call("logs", container)
        return finished.stdout + finished.stderr

    def remove_container(self, name: str) -> None:
        """Kill and remove a container, if it is there."""
        if self.exists("container", name):
            at_once = ("--time", "0") if self.name == "podman" else ()  # docker's does not wait
            self.call("rm", "--force", *at_once, "--volumes", name, check=False)

    def make_volume(self, name: str, megabytes: int = 512, *options: str) -> None:
        """Make a volume that is a tmpfs. Its size is in pages because podman 4 refuses ``size=``; ``options`` are further mount options."""
        mount = ",".join([f"nr_blocks={megabytes * 2**20 // PAGE}", "mode=1777", *options])
        self.call("volume", "create", *TMPFS, "--opt", f"o={mount}", name)

    def remove_volume(self, name: str) -> None:
        """Remove a volume, if it is there. Its containers must be gone."""
        if self.exists("volume", name):
            self.call("volume", "rm", name)


def run(
    command: Sequence[str | Path], *, timeout: float = 120.0, check: bool = True, stdin: str | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run any program as :meth:`Engine.call` does; ``env`` is added to this process's variables.

    Raises:
        EngineError: As there.
    """
    words = [str(word) for word in command]
    # What a program reads is never this terminal's: it could wait for a person.
    source = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    try:
        finished = subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=timeout, check=False, env={**os.environ, **(env or {})}, **source
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"{' '.join(words)}: did not end within {timeout:g} s\n{_text(error.stdout)}{_text(error.stderr)}") from None
    if check and finished.returncode:
        said = (finished.stdout + finished.stderr)[-_TAIL_CHARACTERS:]
        raise EngineError(f"{' '.join(words)}: ended with status {finished.returncode}\n{said}")
    return finished


def find_engine() -> tuple[Engine | None, str]:
    """Return an engine that works, or None and why none does. A command on PATH is not enough: docker's is often there without an engine."""
    reasons = []
    for name in NAMES:
        if shutil.which(name) is None:
            reasons.append(f"{name} is not installed")
            continue
        try:
            asked = run([name, "info"], timeout=_ASK_SECONDS, check=False)
        except EngineError:
            reasons.append(f"'{name} info' does not answer")
            continue
        if asked.returncode == 0:
            version = run([name, "--version"]).stdout.strip()
            return Engine("podman" if version.startswith("podman") else name, version), ""  # a docker command may be podman's
        said = (asked.stderr.strip() or asked.stdout.strip() or "nothing").splitlines()[-1]
        reasons.append(f"'{name} info' says: {said[:200]}")
    return None, "; ".join(reasons)


def _text(output: str | bytes | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""
