"""``shmbridge serve``: one policy, served until someone stops it."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence

from shmbridge.cli.flags import (
    TOKEN_HELP,
    add_config_flags,
    add_group_flag,
    add_policy_flags,
    config_from_flags,
    make_parser,
    policy_class,
    positive,
    refuse_network,
    refuse_unknown,
    whole_number,
)
from shmbridge.config import config_digest
from shmbridge.errors import SpecError
from shmbridge.host import PolicyHost
from shmbridge.host_guests import HostSettings
from shmbridge.memory.naming import DEFAULT_NAME, check_name
from shmbridge.messages import HostState

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.1


def main(words: Sequence[str]) -> int:
    """Serve until a signal, a client's wish, or a policy that cannot be loaded; with ``--check`` only say whether it would begin."""
    parser = _parser()
    found = policy_class(words)
    if found is not None:
        add_config_flags(parser, found.config_type, found.__name__)
    args, rest = parser.parse_known_args(words)
    refuse_unknown(parser, rest)
    refuse_network({"--host": args.host, "--port": args.port, "--insecure": args.insecure})
    refuse_network({"--api_token": args.api_token, "--api_token_file": args.api_token_file})
    if found is None:
        raise SpecError("say which policy to serve: --policy_type NAME; 'shmbridge policies' lists them")
    config, values = config_from_flags(args, found.config_type, args.policy_config_yaml_path, args.policy_type)
    settings = HostSettings(args.max_sessions, args.timeout_ms / 1000, args.idle_timeout_s, not args.no_remote_kill, args.shm_group)
    check_name(args.name)
    if args.check:
        return 0
    digest = config_digest(values)
    host = PolicyHost(lambda: found(config), f"shm://{args.name}", policy_name=args.policy_type, config_digest=digest, settings=settings)
    return _stay(host, args.name, args.policy_type)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("serve", "Serve a policy to simulators on this machine. The policy's own settings are flags too: see --policy_type NAME --help.")
    add_policy_flags(parser)
    here = parser.add_argument_group("on this machine")
    here.add_argument("--name", default=DEFAULT_NAME, help="served as shm://NAME")
    here.add_argument("--max_sessions", type=whole_number, default=1, metavar="N", help="clients served at a time; a further one is refused by name")
    here.add_argument("--timeout_ms", type=positive, default=5000, help="time a client has for a handshake or a half-sent message before it is dropped")
    here.add_argument("--idle_timeout_s", type=positive, help="end a session that asked for nothing for so long")
    here.add_argument("--no_remote_kill", action="store_true", help="clients may not stop this host")
    add_group_flag(here, "as clients")
    here.add_argument("--check", action="store_true", help="serve nothing: load the class, check all flags and the configuration, and end with status 0")
    network = parser.add_argument_group("on the network (not in this version: refused)")
    network.add_argument("--host", help="address to serve TCP on")
    network.add_argument("--port", type=int, help="TCP port")
    network.add_argument("--api_token", metavar="TOKEN", help=TOKEN_HELP)
    network.add_argument("--api_token_file", metavar="FILE", help="file that holds the token")
    network.add_argument("--insecure", action="store_true", help="serve other addresses than loopback without a token")
    return parser


def _stay(host: PolicyHost, name: str, policy: str) -> int:
    status = 0
    try:
        host.start()
        logger.info("host %r: loading policy %s", name, policy)
        _watch(host, name, policy)
        logger.info("host %r stops: a client asked for it", name)
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except SystemExit as stop:
        status = int(stop.code or 0)
    finally:
        # From here on a second signal must not interrupt the clean-up, which takes less than a second anyway.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ended = host.close()
    if not ended:
        logger.warning("host %r: the policy did not let go in time; ending the process around it", name)
        sys.stderr.flush()
        os._exit(status)
    return status


def _watch(host: PolicyHost, name: str, policy: str) -> None:
    """Wait for the end, and say once when the policy is loaded."""
    told = False
    while not host.wait(_LOOK_SECONDS):
        if not told and host.status.state is not HostState.LOADING:
            told = True
            logger.info("host %r is ready: policy %s; Ctrl-C stops it", name, policy)
