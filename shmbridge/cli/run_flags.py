"""The flags of ``shmbridge run``: its own, those of a local policy, and, after ENVIRONMENT, those of the environment."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from shmbridge.chunking import Refill
from shmbridge.cli.flags import (
    TOKEN_HELP,
    add_config_flags,
    add_group_flag,
    add_policy_flags,
    config_from_flags,
    early,
    make_parser,
    policy_class,
    positive,
    refuse_network,
    refuse_unknown,
    seed_number,
    whole_number,
)
from shmbridge.cli.video import VIDEOS
from shmbridge.config import read_yaml
from shmbridge.environment import Environment
from shmbridge.errors import SpecError
from shmbridge.memory.naming import DEFAULT_NAME
from shmbridge.policy import Policy
from shmbridge.registry import environments

_TRUTHS = ("true", "false", "yes", "no", "on", "off")


class Plan(NamedTuple):
    """What was asked for on the command line, checked.

    Attributes:
        args: The flags of ``run`` itself.
        environment: Class of the environment.
        environment_config: Its configuration.
        environment_given: The settings that were given for it, and its ``name``.
        policy: Class of the policy; None where it is in a host.
        policy_config: Its configuration.
        policy_given: The settings that were given for it; None where nothing was.
    """

    args: argparse.Namespace
    environment: type[Environment]
    environment_config: Any
    environment_given: dict[str, Any]
    policy: type[Policy] | None
    policy_config: Any
    policy_given: dict[str, Any] | None


def parse(words: Sequence[str]) -> Plan:
    """Return what the words ask for.

    Raises:
        ShmbridgeError: What is asked for does not exist, or does not go together.
    """
    parser = _parser()
    found = policy_class(words) if _is_local(words) else None
    if found is not None:
        add_config_flags(parser, found.config_type, found.__name__)
    split = environment_place(words, switches(parser), _truth_settings(found))
    args, rest = parser.parse_known_args(words[:split])
    refuse_unknown(parser, rest)
    if not words[split:]:
        parser.error("say which ENVIRONMENT to run, after all flags; 'shmbridge envs' lists them")
    environment = _environment(words[split:])
    _check(args)
    return Plan(args, *environment, found, *_policy_settings(args, found))


def environment_place(words: Sequence[str], switches: set[str], truths: set[str]) -> int:
    """Return where ENVIRONMENT stands: the first word that is no flag and no flag's value. What follows it is the environment's own.

    Args:
        words: Of the command line.
        switches: Flags that take no value.
        truths: Flags that take one only if it is a truth value.
    """
    place = 0
    while place < len(words) and words[place].startswith("-"):
        flag, following = words[place], words[place + 1 : place + 2]
        takes_value = "=" not in flag and flag not in switches and bool(following) and not following[0].startswith("--")
        if flag in truths:
            takes_value = bool(following) and following[0].lower() in _TRUTHS
        place += 2 if takes_value else 1
    return place


def switches(parser: argparse.ArgumentParser | None = None) -> set[str]:
    """Return the flags that take no value; those of run itself, if no parser is given."""
    return {option for action in (parser or _parser())._actions if action.nargs == 0 for option in action.option_strings}


def _truth_settings(policy: type[Policy] | None) -> set[str]:
    hints = get_type_hints(policy.config_type) if policy is not None and policy.config_type is not None else {}
    return {f"--{name}" for name, hint in hints.items() if hint is bool}


def _is_local(words: Sequence[str]) -> bool:
    return early(words, "--policy_deployment") != "remote"


def _environment(words: Sequence[str]) -> tuple[type[Environment], Any, dict[str, Any]]:
    name, flags = words[0], words[1:]
    found = environments.load(name)
    parser = make_parser(f"run … {name}", (found.__doc__ or name).partition("\n")[0])
    add_config_flags(parser, found.config_type, name)
    own, rest = parser.parse_known_args(flags)
    _refuse_misplaced(rest, name)
    refuse_unknown(parser, rest)
    config, given = config_from_flags(own, found.config_type, None, name)
    return found, config, {"name": name, **given}


def _policy_settings(args: argparse.Namespace, found: type[Policy] | None) -> tuple[Any, dict[str, Any] | None]:
    path = args.policy_config_yaml_path
    if found is None:
        return None, None if path is None else read_yaml(path)
    return config_from_flags(args, found.config_type, path, args.policy_type)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("run", "Run an environment with a policy. What follows ENVIRONMENT are the environment's own flags: see ENVIRONMENT --help.")
    parser.usage = "shmbridge run [flags] ENVIRONMENT [the environment's own flags]"
    add_policy_flags(parser)
    parser.add_argument("--policy_deployment", choices=("local", "remote"), default="local", help="the same policy class in this process, or in a host")
    _add_remote_flags(parser.add_argument_group("remote deployment"))
    _add_run_flags(parser.add_argument_group("the run (exactly one of the first two)"))
    _add_chunk_flags(parser.add_argument_group("action chunks"))
    _add_output_flags(parser.add_argument_group("what is kept"))
    return parser


def _add_run_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--num_steps", type=whole_number, metavar="N", help="stop after so many steps")
    group.add_argument("--num_episodes", type=whole_number, metavar="N", help="a fixed quota per environment, with fixed seeds")
    group.add_argument("--num_envs", type=whole_number, default=1, metavar="N", help="environments stepped together")
    group.add_argument("--seed", type=seed_number, default=0, help="of the first episode; the next has the next")
    group.add_argument("--device", default="cpu", help="where the simulator computes")
    group.add_argument("--enable_cameras", action="store_true", help="the environment offers its cameras to the policy")
    group.add_argument("--headless", action="store_true", help="no window, where an environment can have one")
    group.add_argument("--describe", action="store_true", help="run nothing: say what the environment offers and takes, and the shared memory it needs")
    group.add_argument("--json", action="store_true", help="with --describe: as one JSON document")


def _add_chunk_flags(group: argparse._ArgumentGroup) -> None:
    choices = [choice.value for choice in Refill]
    group.add_argument("--refill", choices=choices, default=Refill.EMPTY.value, help="who is asked for when a chunk is used up: only those, or all")
    group.add_argument("--replan_steps", type=whole_number, metavar="N", help="play only the first N actions of each chunk")
    group.add_argument("--simulated_latency_steps", type=seed_number, default=0, metavar="N", help="take each action from an observation N steps old")


def _add_output_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--output_dir", type=Path, metavar="DIR", help="write report.json, episodes.csv and, with cameras, videos here")
    group.add_argument("--video", choices=VIDEOS, help="which episodes to film; if not given, all where --output_dir, cameras and imageio-ffmpeg are there")
    group.add_argument("--record", action="store_true", help="write every action to recording.npz, for a policy that plays them again")


def _add_remote_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--name", help=f"the host shm://NAME on this machine; '{DEFAULT_NAME}' if not given")
    add_group_flag(group, "as the host")
    group.add_argument("--transport", choices=("auto", "shm", "socket"), default="auto", help="which data path; this version has shm only")
    group.add_argument("--remote_host", help="a host by address (not in this version: refused)")
    group.add_argument("--remote_port", type=int, help="its TCP port (likewise)")
    group.add_argument("--remote_api_token", metavar="TOKEN", help=TOKEN_HELP)
    group.add_argument("--remote_api_token_file", metavar="FILE", help="file that holds the token (likewise)")
    group.add_argument("--remote_timeout_ms", type=positive, default=15000, help="per request")
    group.add_argument("--remote_start_timeout_ms", type=positive, default=300000, help="waiting for a host that is still starting")
    group.add_argument("--remote_kill_on_exit", action="store_true", help="stop the host when this run ends; by default it stays for reuse")


def _check(args: argparse.Namespace) -> None:
    if args.json and not args.describe:
        raise SpecError("--json goes with --describe. A run writes its report as JSON with --output_dir DIR")
    if not args.describe:
        _check_extent(args)
    if args.name is not None and args.remote_host is not None:
        raise SpecError("--name and --remote_host name two different hosts; give one of them")
    refuse_network({"--remote_host": args.remote_host, "--remote_port": args.remote_port})
    refuse_network({"--remote_api_token": args.remote_api_token, "--remote_api_token_file": args.remote_api_token_file})
    refuse_network({"--transport socket": args.transport == "socket"})
    if args.policy_deployment == "local":
        _check_local(args)


def _check_extent(args: argparse.Namespace) -> None:
    if (args.num_steps is None) == (args.num_episodes is None):
        raise SpecError("give exactly one of --num_steps and --num_episodes")
    if args.output_dir is None and (args.record or args.video not in (None, "none")):
        raise SpecError(f"{'--record' if args.record else '--video'} writes a file: say where with --output_dir DIR")


def _check_local(args: argparse.Namespace) -> None:
    if args.policy_type is None and not args.describe:
        raise SpecError("say which policy to run here: --policy_type NAME; or use the one in a host: --policy_deployment remote")
    given = {"--remote_kill_on_exit": args.remote_kill_on_exit, "--name": args.name is not None, "--shm_group": args.shm_group is not None}
    flag = next((flag for flag, is_given in given.items() if is_given), None)
    if flag is not None:
        raise SpecError(f"{flag} is about a host, but --policy_deployment is local; add --policy_deployment remote")


def _refuse_misplaced(rest: Sequence[str], name: str) -> None:
    ours = {option for action in _parser()._actions for option in action.option_strings}
    for word in rest:
        if word.partition("=")[0] in ours:
            raise SpecError(f"{word} is a flag of run: put it before {name}. What comes after {name} are its own flags")
