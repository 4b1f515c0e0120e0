"""``shmbridge run``: an environment with a policy, from the first reset to the line of metrics."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from shmbridge.cli.flags import TOKEN_HELP, add_config_flags, add_policy_flags, config_from_flags, make_parser, policy_class, refuse_network, refuse_unknown
from shmbridge.cli.report import print_latency, write_report
from shmbridge.cli.watching import Watcher
from shmbridge.client import Client
from shmbridge.config import config_digest, read_yaml
from shmbridge.connecting import connect
from shmbridge.environment import Environment
from shmbridge.errors import ShmbridgeError, SpecError
from shmbridge.memory.naming import DEFAULT_NAME
from shmbridge.messages import Status
from shmbridge.registry import environments, policies
from shmbridge.rollout import rollout

logger = logging.getLogger(__name__)


def main(words: Sequence[str]) -> int:
    """Run and print the metrics."""
    split = _environment_place(words)
    ours, theirs = words[:split], words[split:]
    parser = _parser()
    found = policy_class(ours) if "local" in _deployment(ours) else None
    if found is not None:
        add_config_flags(parser, found.config_type, found.__name__)
    args, rest = parser.parse_known_args(ours)
    refuse_unknown(parser, rest)
    if not theirs:
        parser.error("say which ENVIRONMENT to run, after all flags; 'shmbridge envs' lists them")
    settings = _environment_settings(theirs)
    _check(args)
    with _environment(settings, args) as environment, _client(environment, args) as client:
        try:
            return _run(environment, client, args, {"name": theirs[0], **settings.given})
        finally:
            if args.remote_kill_on_exit:
                _stop_host(client)


def _run(environment: Environment, client: Client, args: argparse.Namespace, described: Mapping[str, object]) -> int:
    logger.info("%s with policy %s over %s, %d environment(s)", described["name"], client.agreement.policy, client.path, environment.num_envs)
    with Watcher(client, args.num_episodes, args.num_steps, args.output_dir) as watcher:
        result = rollout(environment, client, num_steps=args.num_steps, num_episodes=args.num_episodes, seed=args.seed, watch=watcher.watch)
    print_latency(result.timings)
    if watcher.video is not None:
        print(f"Video of the first episode: {watcher.video}")
    if args.output_dir is not None:
        print(f"Report: {write_report(args.output_dir, result, client, {**_plain(args), 'environment': described})}")
    print(f"Metrics: {result.metrics()}", flush=True)
    return 0


def _environment_place(words: Sequence[str]) -> int:
    """Return where ENVIRONMENT stands: the first word that is no flag and no flag's value. What follows it is the environment's own."""
    switches = {option for action in _parser()._actions if action.nargs == 0 for option in action.option_strings}
    place = 0
    while place < len(words) and words[place].startswith("-"):
        takes_value = "=" not in words[place] and words[place] not in switches
        place += 2 if takes_value and place + 1 < len(words) and not words[place + 1].startswith("--") else 1
    return place


def _deployment(words: Sequence[str]) -> str:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--policy_deployment", default="local")
    return str(parser.parse_known_args(list(words))[0].policy_deployment)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("run", "Run an environment with a policy. What follows ENVIRONMENT are the environment's own flags: see ENVIRONMENT --help.")
    parser.usage = "shmbridge run [flags] ENVIRONMENT [the environment's own flags]"
    add_policy_flags(parser)
    parser.add_argument("--policy_deployment", choices=("local", "remote"), default="local", help="the same policy class in this process, or in a host")
    _add_remote_flags(parser.add_argument_group("remote deployment"))
    length = parser.add_argument_group("the run (exactly one of the first two)")
    length.add_argument("--num_steps", type=int, metavar="N", help="stop after so many steps")
    length.add_argument("--num_episodes", type=int, metavar="N", help="a fixed quota per environment, with fixed seeds")
    length.add_argument("--num_envs", type=int, default=1, metavar="N", help="environments stepped together")
    length.add_argument("--seed", type=int, default=0, help="of the first episode; the next has the next")
    length.add_argument("--device", default="cpu", help="where the simulator computes")
    length.add_argument("--enable_cameras", action="store_true", help="the environment offers its cameras to the policy")
    length.add_argument("--headless", action="store_true", help="no window, where an environment can have one")
    length.add_argument("--output_dir", type=Path, metavar="DIR", help="write the JSON report and, with cameras, a video of the first episode here")
    return parser


def _add_remote_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--name", help=f"the host shm://NAME on this machine; '{DEFAULT_NAME}' if not given")
    group.add_argument("--transport", choices=("auto", "shm", "socket"), default="auto", help="which data path; this version has shm only")
    group.add_argument("--remote_host", help="a host by address (not in this version: refused)")
    group.add_argument("--remote_port", type=int, help="its TCP port (likewise)")
    group.add_argument("--remote_api_token", metavar="TOKEN", help=TOKEN_HELP)
    group.add_argument("--remote_api_token_file", metavar="FILE", help="file that holds the token (likewise)")
    group.add_argument("--remote_timeout_ms", type=float, default=15000, help="per request")
    group.add_argument("--remote_start_timeout_ms", type=float, default=300000, help="waiting for a host that is still starting")
    group.add_argument("--remote_kill_on_exit", action="store_true", help="stop the host when this run ends; by default it stays for reuse")


def _check(args: argparse.Namespace) -> None:
    if (args.num_steps is None) == (args.num_episodes is None):
        raise SpecError("give exactly one of --num_steps and --num_episodes")
    for flag in ("num_steps", "num_episodes", "num_envs"):
        if getattr(args, flag) is not None and getattr(args, flag) < 1:
            raise SpecError(f"--{flag} must be at least 1, not {getattr(args, flag)}")
    if args.name is not None and args.remote_host is not None:
        raise SpecError("--name and --remote_host name two different hosts; give one of them")
    refuse_network({"--remote_host": args.remote_host, "--remote_port": args.remote_port})
    refuse_network({"--remote_api_token": args.remote_api_token, "--remote_api_token_file": args.remote_api_token_file})
    refuse_network({"--transport socket": args.transport == "socket"})
    if args.policy_deployment == "local":
        _check_local(args)


def _check_local(args: argparse.Namespace) -> None:
    if args.policy_type is None:
        raise SpecError("say which policy to run here: --policy_type NAME; or use the one in a host: --policy_deployment remote")
    if args.remote_kill_on_exit or args.name is not None:
        flag = "--remote_kill_on_exit" if args.remote_kill_on_exit else "--name"
        raise SpecError(f"{flag} is about a host, but --policy_deployment is local; add --policy_deployment remote")


class _Settings(NamedTuple):
    """An environment's class, its configuration, and the settings that were given."""

    found: type[Environment]
    config: Any
    given: dict[str, Any]


def _environment_settings(words: Sequence[str]) -> _Settings:
    name, flags = words[0], words[1:]
    found = environments.load(name)
    parser = make_parser(f"run … {name}", (found.__doc__ or name).partition("\n")[0])
    add_config_flags(parser, found.config_type, name)
    own, rest = parser.parse_known_args(flags)
    _refuse_misplaced(rest, name)
    refuse_unknown(parser, rest)
    return _Settings(found, *config_from_flags(own, found.config_type, None, name))


@contextlib.contextmanager
def _environment(settings: _Settings, args: argparse.Namespace) -> Iterator[Environment]:
    options = {"num_envs": args.num_envs, "enable_cameras": args.enable_cameras, "headless": args.headless, "device": args.device}
    environment = settings.found(settings.config, **options)
    try:
        yield environment
    finally:
        environment.close()


def _refuse_misplaced(rest: Sequence[str], name: str) -> None:
    ours = {option for action in _parser()._actions for option in action.option_strings}
    for word in rest:
        if word.partition("=")[0] in ours:
            raise SpecError(f"{word} is a flag of run: put it before {name}. What comes after {name} are its own flags")


@contextlib.contextmanager
def _client(environment: Environment, args: argparse.Namespace) -> Iterator[Client]:
    if args.policy_deployment == "remote":
        with _remote_client(environment, args) as client:
            yield client
        return
    found = policies.load(args.policy_type)
    config, _ = config_from_flags(args, found.config_type, args.policy_config_yaml_path, args.policy_type)
    policy = found(config)
    try:
        with connect(policy, observation_specs=environment.specs.observation, action_specs=environment.specs.action, num_envs=environment.num_envs) as client:
            yield client
    finally:
        policy.close()


def _remote_client(environment: Environment, args: argparse.Namespace) -> Client:
    try:
        return _connect_remote(environment, args)
    except SpecError as error:
        hint = "" if args.enable_cameras else "\n(an environment's cameras are offered with --enable_cameras only)"
        raise SpecError(f"{error}{hint}") from None


def _connect_remote(environment: Environment, args: argparse.Namespace) -> Client:
    digest = None if args.policy_config_yaml_path is None else config_digest(read_yaml(args.policy_config_yaml_path))
    return connect(
        f"shm://{args.name or DEFAULT_NAME}",
        observation_specs=environment.specs.observation,
        action_specs=environment.specs.action,
        num_envs=environment.num_envs,
        timeout=args.remote_timeout_ms / 1000,
        start_timeout=args.remote_start_timeout_ms / 1000,
        policy_type=args.policy_type,
        config_digest=digest,
        on_status=_StatusLine().show,
    )


class _StatusLine:
    """Says what the host does while it is waited for: once per state, then every ten seconds."""

    def __init__(self) -> None:
        self._said: tuple[str, int] | None = None

    def show(self, status: Status) -> None:
        now = (status.state.value, int(status.seconds // 10))
        if now != self._said and status.state.value != "READY":
            since = f" for {status.seconds:.0f} s" if status.seconds >= 1 else ""
            print(f"waiting: the host is {status.state.value}{since}", file=sys.stderr, flush=True)
        self._said = now


def _stop_host(client: Client) -> None:
    try:
        client.stop_host()
    except ShmbridgeError as error:
        logger.warning("the host was not stopped: %s", error)


def _plain(args: argparse.Namespace) -> dict[str, object]:
    secret = {"remote_api_token", "remote_api_token_file"}
    return {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items() if key not in secret}
