"""Flags: both spellings, and the flags that policies and environments bring themselves."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

from shmbridge.config import build_config, field_names, read_yaml, value_from_text
from shmbridge.errors import PolicyError, SpecError
from shmbridge.policy import Policy
from shmbridge.registry import policies

TOKEN_HELP = (
    "secret that a client must prove to know before this host serves it over the network. It keeps others who can reach the port from "
    "using or stopping the policy; it is needed wherever --host is not loopback. It is no encryption: what is sent can be read on the way. "
    "On one machine the owner-only socket takes its place, so this version, which serves no network, refuses it"
)
_NEAR = 0.7
"""From 0 to 1, how much a word must be like a flag to be taken for a slip of it."""


def with_underscores(words: Sequence[str]) -> list[str]:
    """Return the words with dashes inside flag names as underscores, so that both spellings mean the same."""
    return [_underscored(word) if word.startswith("--") and len(word) > len("--") else word for word in words]


def positive(text: str) -> float:
    """Parse a number above zero, for argparse."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return value


def whole_number(text: str) -> int:
    """Parse a whole number above zero, for argparse."""
    value = _whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return value


def add_group_flag(parser: argparse._ActionsContainer, whom: str) -> None:
    """Add the flag for a /dev/shm that two users share; ``whom`` are those who are trusted then."""
    parser.add_argument("--shm_group", type=seed_number, metavar="GID", help=f"trust {whom} this group's members too, by number; not given: only our own user")


def seed_number(text: str) -> int:
    """Parse a whole number from zero up, for argparse."""
    value = _whole(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below zero")
    return value


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None


def make_parser(command: str, description: str) -> argparse.ArgumentParser:
    """Return a parser whose flags cannot be abbreviated: an abbreviation could swallow a plug-in's own flag."""
    return argparse.ArgumentParser(prog=f"shmbridge {command}", description=description, allow_abbrev=False, formatter_class=_Formatter)


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but those that say nothing."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False, argparse.SUPPRESS) else super()._get_help_string(action)


def add_policy_flags(parser: argparse.ArgumentParser) -> None:
    """Add the two flags that name a policy."""
    group = parser.add_argument_group("the policy")
    group.add_argument("--policy_type", metavar="NAME", help="a name out of 'shmbridge policies', package.module:Class, or path/to/file.py:Class")
    group.add_argument("--policy_config_yaml_path", metavar="FILE", type=Path, help="the policy's configuration")


def add_config_flags(parser: argparse.ArgumentParser, config_type: type | None, owner: str) -> None:
    """Add one flag per field of a configuration class.

    Raises:
        PolicyError: A field has the name of a flag that is there already.
    """
    if config_type is None:
        return
    group = parser.add_argument_group(f"of {owner}")
    hints, defaults = get_type_hints(config_type), _defaults(config_type)
    for name in field_names(config_type):
        is_switch = hints.get(name) is bool
        value: dict[str, Any] = {"nargs": "?", "const": "true"} if is_switch else {}
        text = f"{_hint_text(hints.get(name))}; {defaults.get(name, 'required')}"
        try:
            group.add_argument(f"--{name}", metavar="VALUE", default=argparse.SUPPRESS, help=text.replace("%", "%%"), **value)
        except argparse.ArgumentError:
            raise PolicyError(f"{owner} has a setting {name!r}, which is also a flag of {parser.prog}; rename the setting") from None


def config_from_flags(args: argparse.Namespace, config_type: type | None, yaml_path: Path | None, owner: str) -> tuple[Any, dict[str, Any]]:
    """Return the configuration made of a YAML file and the flags that override it, and the settings that were given.

    Raises:
        SpecError: The file cannot be read, or a setting is unknown, missing or of the wrong type.
    """
    values = read_yaml(yaml_path) if yaml_path is not None else {}
    if config_type is not None:
        given = {name: getattr(args, name) for name in field_names(config_type) if hasattr(args, name)}
        values |= {name: value_from_text(config_type, name, text) for name, text in given.items()}
    return build_config(config_type, values, owner), values


def early(words: Sequence[str], flag: str) -> str | None:
    """Return the value of ``flag`` before everything is parsed, because it decides which further flags there are."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(flag, dest="value")
    return str(value) if (value := parser.parse_known_args(list(words))[0].value) is not None else None


def policy_class(words: Sequence[str]) -> type[Policy] | None:
    """Return the class that ``--policy_type`` names, or None where it names none."""
    name = early(words, "--policy_type")
    return policies.load(name) if name else None


def refuse_unknown(parser: argparse.ArgumentParser, rest: Sequence[str]) -> None:
    """End with a usage error if words are left, naming the nearest flag."""
    if rest:
        word = rest[0].partition("=")[0]
        hint = f"; {found}" if (found := nearest_flag(word, [option for action in parser._actions for option in action.option_strings])) else ""
        parser.error(f"unknown flag {word}{hint}" if word.startswith("-") else f"{word!r} belongs to no flag")


def nearest_flag(word: str, flags: Sequence[str]) -> str:
    """Return ``did you mean …?`` for the nearest of ``flags``, or nothing where none is near. The dashes, which all have, bring no flag nearer."""
    names = {flag.lstrip("-"): flag for flag in flags}
    close = difflib.get_close_matches(word.lstrip("-"), list(names), n=1, cutoff=_NEAR)
    return f"did you mean {names[close[0]]!r}?" if close else ""


def refuse_network(flags: dict[str, object]) -> None:
    """Raise if a flag of the network path was given: this version has none, and must not look as if it had.

    Raises:
        SpecError: Names the flag.
    """
    for flag, value in flags.items():
        if value is not None and value is not False:
            why = f"{flag} belongs to the path between two machines, which this version does not have"
            raise SpecError(f"{why}. On one machine leave it out: --name NAME joins both sides through /dev/shm")


def _underscored(word: str) -> str:
    flag, mark, value = word.partition("=")
    return "--" + flag[2:].replace("-", "_") + mark + value


def _defaults(config_type: type) -> dict[str, str]:
    if not dataclasses.is_dataclass(config_type):
        return {}
    fields = [field for field in dataclasses.fields(config_type) if not _is_required(field)]
    return {field.name: f"default {field.default!r}" if field.default is not dataclasses.MISSING else "optional" for field in fields}


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _hint_text(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint)) if isinstance(hint, type) else str(hint).replace("typing.", "")
