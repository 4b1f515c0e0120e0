"""``shmbridge run``: an environment with a policy, from the first reset to the line of metrics."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from shmbridge.cli.describing import describe, quiet_stdout
from shmbridge.cli.recording import FILE as RECORDING
from shmbridge.cli.recording import Recorder
from shmbridge.cli.report import EPISODES, REPORT, print_episodes, print_latency, print_rates, write_report
from shmbridge.cli.run_flags import Plan, parse
from shmbridge.cli.video import FOLDER as VIDEO_FOLDER
from shmbridge.cli.video import Film, check_video, older, open_film
from shmbridge.cli.watching import Watcher
from shmbridge.cli.wording import counted
from shmbridge.client import Client
from shmbridge.config import config_digest
from shmbridge.connecting import connect
from shmbridge.environment import Environment
from shmbridge.errors import PolicyError, ShmbridgeError, SpecError
from shmbridge.memory.naming import DEFAULT_NAME
from shmbridge.messages import Status, policy_raised
from shmbridge.rollout import Moment, RolloutResult, Watch, rollout
from shmbridge.session import OFFERED, run_policy_code

logger = logging.getLogger(__name__)


def main(words: Sequence[str]) -> int:
    """Run and print the metrics."""
    if "--describe" in words:
        return _describe(words)
    plan = parse(words)
    check_video(plan.args.video)
    if plan.args.output_dir is not None:
        make_folder(plan.args.output_dir)
        _check_older(plan.args.output_dir, plan.args)
    with _environment(plan) as environment, _client(environment, plan) as client:
        try:
            return _run(environment, client, plan)
        finally:
            if plan.args.remote_kill_on_exit:
                _stop_host(client)


def _describe(words: Sequence[str]) -> int:
    with quiet_stdout():
        plan = parse(words)
        with _environment(plan) as environment:
            specs, num_envs = environment.specs, environment.num_envs
    describe(specs, num_envs, as_json=plan.args.json)
    return 0


def _run(environment: Environment, client: Client, plan: Plan) -> int:
    args = plan.args
    counts = counted(environment.num_envs, "environment")
    logger.info("%s with policy %s (%s), %s", plan.environment_given["name"], client.agreement.policy, client.path, counts)
    _warn_of_replan(args.replan_steps, client.specs.horizon)
    film = open_film(args.video, args.output_dir, client.specs.observation, args.num_episodes, wants_cameras=args.enable_cameras)
    recorder = Recorder(client.specs.action, environment.num_envs) if args.record else None
    # The film outside, so that what is still to be encoded is waited for when the progress line is complete.
    with film or contextlib.nullcontext(), Watcher(client, args.num_episodes, args.num_steps) as watcher:
        watches = [each.watch for each in (watcher, film, recorder) if each is not None]
        limits = {"num_steps": args.num_steps, "num_episodes": args.num_episodes}
        result = rollout(environment, client, seed=args.seed, watch=lambda moment: _each(watches, moment), **limits)
    print_episodes(result.episodes, args.output_dir)
    print_latency(result.timings)
    status = _keep(result, client, plan, film, recorder)
    print_rates(result.episodes)
    print(f"Metrics: {result.metrics()}", flush=True)
    return status


def _warn_of_replan(replan_steps: int | None, horizon: int) -> None:
    if replan_steps is not None and replan_steps > horizon:
        logger.warning(
            "--replan_steps %d changes nothing: the policy's chunks have %d action(s), and a new one is asked for after these", replan_steps, horizon
        )


def _each(watches: Sequence[Watch], moment: Moment) -> None:
    for watch in watches:
        watch(moment)


def _keep(result: RolloutResult, client: Client, plan: Plan, film: Film | None, recorder: Recorder | None) -> int:
    """Write what is wanted. A run is not lost because something about it cannot be written."""
    folder = plan.args.output_dir
    if folder is None:
        return 0
    for line in film.lines() if film is not None else ():
        print(line)
    settings = {**_plain(vars(plan.args)), "policy_settings": plan.policy_given, "environment": plan.environment_given}
    try:
        if recorder is not None:
            print(f"Recording: {recorder.write(folder)}")
        print(f"Report: {write_report(folder, result, client, settings, videos=film and film.report())}")
    except OSError as error:
        print(f"shmbridge run: the report could not be written: {error}", file=sys.stderr)
        return 1
    return 0


def make_folder(folder: Path) -> None:
    """Make the folder that ``--output_dir`` names, and try to make a file there, before anything that takes long.

    Raises:
        SpecError: Either cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except PermissionError:
        place = next(place for place in (folder, *folder.absolute().parents) if os.path.exists(place))
        raise SpecError(_not_ours(folder, place)) from None
    except OSError as error:
        raise SpecError(f"--output_dir {folder} cannot be made or written to: {error.strerror}") from None


def _check_older(folder: Path, args: Namespace) -> None:
    """Refuse a folder with files of an earlier run that this one is to replace and may not."""
    is_filmed = args.video != "none"
    written = [folder / REPORT, folder / EPISODES] + [folder / VIDEO_FOLDER] * is_filmed
    removed = (older(folder / VIDEO_FOLDER) if is_filmed else []) + [folder / RECORDING] * args.record
    closed = [path for path in written if os.path.exists(path) and not os.access(path, os.W_OK)]
    closed += [path for path in removed if os.path.exists(path) and not _may_remove(path)]
    if closed:
        raise SpecError(_not_ours(folder, closed[0]))


def _may_remove(path: Path) -> bool:
    # That the folder is writable is known already.
    parent = path.parent.stat()
    return not parent.st_mode & stat.S_ISVTX or os.geteuid() in (0, parent.st_uid, path.lstat().st_uid)


def _not_ours(folder: Path, place: Path) -> str:
    found, uid = place.stat(), os.geteuid()
    where = f"--output_dir {folder}" + (f": {place}" if place != folder else "")
    as_owner = "run as its owner (--user for docker and podman run, RUN_UID for docker/compose.yaml)"
    do = as_owner if found.st_uid != uid else f"chmod u+rwX {place}"
    return f"{where} belongs to uid {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}; this process is uid {uid}: give another folder, or {do}"


@contextlib.contextmanager
def _environment(plan: Plan) -> Iterator[Environment]:
    args = plan.args
    options = {"num_envs": args.num_envs, "enable_cameras": args.enable_cameras, "headless": args.headless, "device": args.device}
    environment = _build(lambda: plan.environment(plan.environment_config, **options), plan.environment_given["name"])
    try:
        yield environment
    finally:
        environment.close()


def _build(make: Callable[[], Environment], name: str) -> Environment:
    try:
        return make()
    except ShmbridgeError:
        raise
    except Exception as error:  # a simulator may raise anything
        told = str(policy_raised(error)).removeprefix("the policy raised ")
        raise PolicyError(f"environment {name} cannot be built: {told}") from None


@contextlib.contextmanager
def _client(environment: Environment, plan: Plan) -> Iterator[Client]:
    specs = environment.specs
    args = plan.args
    chunks = {"refill": args.refill, "replan_steps": args.replan_steps, "latency_steps": args.simulated_latency_steps}
    offer = {"observation_specs": specs.observation, "action_specs": specs.action, "num_envs": environment.num_envs, **chunks}
    with _local_client(plan, offer) if plan.policy is not None else _remote_client(plan, offer) as client:
        yield client


@contextlib.contextmanager
def _local_client(plan: Plan, offer: dict[str, Any]) -> Iterator[Client]:
    found = plan.policy
    assert found is not None
    policy = run_policy_code(lambda: found(plan.policy_config))
    try:
        with _hinting(plan):
            client = connect(policy, policy_type=plan.args.policy_type, config_digest=config_digest(plan.policy_given or {}), **offer)
        with client:
            yield client
    finally:
        policy.close()


@contextlib.contextmanager
def _remote_client(plan: Plan, offer: dict[str, Any]) -> Iterator[Client]:
    args = plan.args
    with _hinting(plan):
        client = connect(
            f"shm://{args.name or DEFAULT_NAME}",
            timeout=args.remote_timeout_ms / 1000,
            start_timeout=args.remote_start_timeout_ms / 1000,
            policy_type=args.policy_type,
            config_digest=None if plan.policy_given is None else config_digest(plan.policy_given),
            shm_group=args.shm_group,
            on_status=_StatusLine().show,
            **offer,
        )
    with client:
        yield client


@contextlib.contextmanager
def _hinting(plan: Plan) -> Iterator[None]:
    """Point at the flag that is forgotten most, where tensors are missing that it would offer."""
    try:
        yield
    except SpecError as error:
        if plan.args.enable_cameras or OFFERED not in str(error):
            raise
        raise SpecError(f"{error}\n(an environment's cameras are offered with --enable_cameras only)") from None


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


def _plain(args: dict[str, Any]) -> dict[str, Any]:
    left_out = {"remote_api_token", "remote_api_token_file", "describe", "json"}
    return {key: str(value) if isinstance(value, Path) else value for key, value in args.items() if key not in left_out}
