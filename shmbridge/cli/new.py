"""``shmbridge new``: a small plug-in that works, to be made one's own."""

from __future__ import annotations

import importlib.util
import keyword
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

from shmbridge.cli.flags import make_parser
from shmbridge.errors import SpecError
from shmbridge.registry import Registry, environments, policies

TEMPLATES = Path(__file__).parents[1] / "templates"
_SUFFIX = ".txt"
"""Of templates, so that nothing takes them for code of ours."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


class Kind(NamedTuple):
    """What can be made.

    Attributes:
        noun: As messages say it.
        module: File with the class, without suffix.
        endings: Words that a name may end in and its class need not repeat; the first ends the class's name.
        registry: Where names of its kind are known.
        trial: A command that tries it, below the flags.
        named: How it is called once it is installed.
    """

    noun: str
    module: str
    endings: tuple[str, ...]
    registry: Registry[Any]
    trial: str
    named: str


KINDS = {
    "policy": Kind("policy", "policy", ("policy",), policies, "shmbridge serve --name {name} --policy_type {place}", "--policy_type {name}"),
    "env": Kind(
        "environment",
        "environment",
        ("environment", "env"),
        environments,
        "shmbridge run --policy_type shmbridge_policies.random:RandomPolicy --action_shape '[2]' --num_episodes 5 {place}",
        "shmbridge run … {name}",
    ),
}


def main(words: Sequence[str]) -> int:
    """Write the folder and say what to type next."""
    parser = make_parser("new", "Write a small plug-in that works: its code, a test of its contract, and what makes it installable under its name.")
    parser.add_argument("kind", choices=tuple(KINDS), help="what to write: a policy or an environment")
    parser.add_argument("name", metavar="NAME", help="what it is to be called; dashes become underscores")
    parser.add_argument("--folder", type=Path, default=Path(), metavar="DIR", help="where to make the folder NAME")
    args = parser.parse_args(words)
    kind = KINDS[args.kind]
    name = plugin_name(args.name)
    folder = args.folder / name
    if folder.exists():
        raise SpecError(f"{folder} is there already; choose another NAME, or another --folder")
    refuse_taken(name, kind)
    _write(folder, render(args.kind, name))
    print("\n".join(_next(kind, name, folder)))
    return 0


def plugin_name(text: str) -> str:
    """Return the name that ``text`` stands for: of the folder, of the package, and what the command knows it by.

    Raises:
        SpecError: It cannot name a package.
    """
    name = text.replace("-", "_")
    if keyword.iskeyword(name):
        raise SpecError(f"{text!r} is a word of Python's own and cannot name a package; choose another NAME")
    if not _NAME.fullmatch(name):
        lower = re.sub(r"[^a-z0-9_]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()).strip("_0123456789")[:40]
        hint = f"; try {lower}" if _NAME.fullmatch(lower) else ""
        raise SpecError(f"{text!r} cannot name a Python package: use lower case letters, digits and '_', at most 40, a letter first{hint}")
    return name


def refuse_taken(name: str, kind: Kind) -> None:
    """Raise if another plug-in or module goes by ``name`` here.

    Raises:
        SpecError: Says where that one is.
    """
    known = kind.registry.names()
    if name in known:
        raise SpecError(f"there is {_article(kind.noun)} {name!r} already, {known[name]}; choose another NAME")
    found = importlib.util.find_spec(name)
    # A folder without Python in it is found too, as a package of no origin; it is in nobody's way.
    if name in sys.stdlib_module_names or (found is not None and found.origin is not None):
        where = found.origin if found is not None else "of Python itself"
        raise SpecError(f"a module {name!r} can be imported here already ({where}), and the new one would hide it or be hidden; choose another NAME")


def class_name(name: str, kind: Kind) -> str:
    """Return what the class is called: ``pick_place_env`` makes ``PickPlaceEnvironment``."""
    stem = next((name.removesuffix(f"_{ending}") for ending in kind.endings if name.endswith(f"_{ending}")), name)
    return "".join(word.capitalize() for word in f"{stem}_{kind.endings[0]}".split("_"))


def render(kind: str, name: str) -> dict[str, str]:
    """Return the plug-in's files: what is in each, by its name."""
    words = {"name": name, "class_name": class_name(name, KINDS[kind]), "project_name": name.replace("_", "-")}
    templates = sorted((TEMPLATES / kind).glob(f"*{_SUFFIX}"))
    return {path.name.removesuffix(_SUFFIX): Template(path.read_text(encoding="utf-8")).substitute(words) for path in templates}


def _write(folder: Path, files: Mapping[str, str]) -> None:
    try:
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{folder} cannot be written: {error.strerror}") from None


def _next(kind: Kind, name: str, folder: Path) -> list[str]:
    at = shlex.quote(str(folder))
    place = shlex.quote(f"{folder / kind.module}.py:{class_name(name, kind)}")
    return [
        f"{folder} holds {_article(kind.noun)} that works. Make {kind.module}.py yours. Next:",
        f"    python -m pytest {at}",
        f"    {kind.trial.format(name=name, place=place)}",
        f"    pip install -e {at}    # then: {kind.named.format(name=name)}",
    ]


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
