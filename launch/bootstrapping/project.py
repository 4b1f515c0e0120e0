"""The project as it lies in its folder: what it is made of and what it needs."""

from __future__ import annotations

import ast
import configparser
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("shmbridge", "policies", "launch")
_BESIDE = ("setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")


@dataclass(frozen=True)
class Project:
    """A checkout, which need not be under git."""

    root: Path

    @property
    def venvs(self) -> Path:
        """Everything that the bootstrap makes, but for the demo's results."""
        return self.root / ".venvs"

    @property
    def temporary(self) -> Path:
        """What is needed only while the environments are made."""
        return self.venvs / "temporary"

    def sources(self) -> list[Path]:
        """Return what the wheel is made of, relative to the root and in order."""
        found = [path for package in PACKAGES for path in (self.root / package).rglob("*") if path.is_file() and _is_source(path)]
        found += [self.root / name for name in _BESIDE if (self.root / name).is_file()]
        return sorted(path.relative_to(self.root) for path in found)

    def digest(self) -> str:
        """Return a digest over names and contents of all sources."""
        total = hashlib.sha256()
        for path in self.sources():
            content = hashlib.sha256((self.root / path).read_bytes()).hexdigest()
            total.update(f"{path}\0{content}\n".encode())
        return total.hexdigest()[:16]

    def requirements(self, *extras: str) -> list[str]:
        """Return what setup.cfg names as needed always, and for each of ``extras``."""
        config = configparser.ConfigParser()
        config.read(self.root / "setup.cfg", encoding="utf-8")
        lists = [config["options"]["install_requires"], *(config["options.extras_require"][extra] for extra in extras)]
        return [line.strip() for text in lists for line in text.splitlines() if line.strip()]

    def build_requirements(self) -> list[str]:
        """Return what pyproject.toml names as needed to build."""
        text = (self.root / "pyproject.toml").read_text(encoding="utf-8")
        # A TOML list of strings reads as a Python list; the standard library reads TOML from Python 3.11 on only.
        return list(ast.literal_eval(re.search(r"^requires = (\[.*\])$", text, re.MULTILINE)[1]))


def _is_source(path: Path) -> bool:
    return "__pycache__" not in path.parts and path.suffix != ".pyc"
