"""A simulator's side of a session, steered by its command line. It runs in the simulator's container.

    client.py NAME {once,wait,idle,patient,play,crash,descriptors} [--num_envs N] [--camera_bytes B] [--shm_group GID] [--start_timeout S]

Each line on stdout is a JSON document with an ``event``. An error of shmbridge is one too, and status 1.
"""

import argparse
import contextlib
import errno
import itertools
import json
import mmap
import os
import signal
import sys
import time

import numpy as np

import shmbridge
from shmbridge.transport.control import Control

STEPS = 20
LONG = 600.0


def main():
    args = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # a container's first process ignores it otherwise
    try:
        MODES[args.mode](args)
    except shmbridge.ShmbridgeError as error:
        _tell("error", at=time.monotonic(), type=type(error).__name__, text=str(error), **_where(error))
        return 1
    return 0


def once(args):
    with _connect(args) as client:
        born = _play(client, args, STEPS)
    _tell("answered", born=born, steps=STEPS)


def wait(args):
    """Be answered once, then ask for what takes long."""
    with _connect(args) as client:
        _tell("answered", born=_play(client, args, 1))
        client.act(_observation(args, 1.0, LONG), timeout=LONG)


def idle(args):
    """Be answered once, then do something else."""
    with _connect(args) as client:
        _tell("answered", born=_play(client, args, 1))
        time.sleep(LONG)


def patient(args):
    """Play until an answer does not come in time, then wait for the host and play on in the same session."""
    with _connect(args) as client:
        _tell("answered", born=_play(client, args, STEPS))
        _until_timed_out(client, args)
        while client.ping() is None:
            time.sleep(0.05)
        _tell("answered", born=_play(client, args, STEPS))


def play(args):
    """Play until killed, with a new session after each that was lost."""
    while True:
        with contextlib.suppress(shmbridge.PeerLostError), _connect(args) as client:
            _tell("answered", born=_play(client, args, STEPS))
            for _ in itertools.count():
                _play(client, args, 1)
                time.sleep(0.002)


def crash(args):
    """Let the host crash, and play with the next one of its name."""
    with contextlib.suppress(shmbridge.PeerLostError), _connect(args) as client:
        _tell("answered", born=_play(client, args, STEPS))
        client.act(_observation(args, 1.0, -1.0))
    while True:
        with contextlib.suppress(shmbridge.PeerLostError):  # in the moment of its end it may still let one in
            return once(args)


def descriptors(args):
    """Try to write through what may only be read: the action ring's descriptor, as it came from the host."""
    kept = []
    take = Control.take_descriptors

    def take_and_keep(control, count):
        found = take(control, count)
        kept.extend(map(os.dup, found))
        return found

    Control.take_descriptors = take_and_keep
    with _connect(args) as client:
        _play(client, args, 1)
        observation, action = kept[:2]
        _tell("rings", observation=_ways_to_write(observation), action=_ways_to_write(action), mode=oct(os.fstat(action).st_mode & 0o777))


def _until_timed_out(client, args):
    while True:
        try:
            client.act(_observation(args, time.monotonic()), timeout=2.0)
        except shmbridge.TimedOutError as error:
            return _tell("timed out", text=str(error))


def _ways_to_write(descriptor):
    """Return the ways that work, without writing anything."""
    size = os.fstat(descriptor).st_size
    attempts = {
        "map": lambda: mmap.mmap(descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE).close(),
        "truncate": lambda: os.ftruncate(descriptor, size),
        "open again": lambda: os.close(os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR)),
        "change the mode": lambda: os.fchmod(descriptor, 0o666),
    }
    return [name for name, attempt in attempts.items() if _works(attempt)]


def _works(attempt):
    try:
        attempt()
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EINVAL):
            raise
        return False
    return True


def _connect(args):
    more = {} if args.shm_group is None else {"shm_group": args.shm_group}
    example = _observation(args, 0.0)
    return shmbridge.connect(f"shm://{args.name}", example=example, num_envs=args.num_envs, start_timeout=args.start_timeout, timeout=60.0, **more)


def _play(client, args, steps):
    """Play an episode, check each answer, and return when the host that gave them was born."""
    client.reset()
    answers = set()
    for _ in range(steps):
        mark = time.monotonic()  # never twice the same, in no container of this machine
        camera = int(mark * 1e6) % 256
        action = client.act(_observation(args, mark, camera=camera))["action"].tolist()
        assert {row[0] for row in action} == {mark}, f"a stale action: asked was {mark}, the answer is {action}"
        assert {row[3] for row in action} == {camera if args.camera_bytes else -1.0}, f"the policy saw another image: written was {camera}, {action}"
        answers |= {(born, resets) for _, born, resets, _ in action}
    assert len(answers) == 1, f"answers of several hosts or episodes within one: {answers}"
    return answers.pop()[0]


def _observation(args, mark, seconds=0.0, camera=0):
    image = {"camera": np.full((args.num_envs, args.camera_bytes), camera, np.uint8)} if args.camera_bytes else {}
    return {"mark": np.full(args.num_envs, mark), "seconds": np.full(args.num_envs, seconds), **image}


def _tell(event, **more):
    print(json.dumps({"event": event, **more}), flush=True)


def _where(error):
    return {name: getattr(error, name) for name in ("peer", "phase", "sequence", "needed", "free") if hasattr(error, name)}


def _arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("mode", choices=sorted(MODES))
    parser.add_argument("--num_envs", type=int, default=1)
    parser.add_argument("--camera_bytes", type=int, default=0)
    parser.add_argument("--shm_group", type=int)
    parser.add_argument("--start_timeout", type=float, default=30.0)
    return parser.parse_args()


MODES = {"once": once, "wait": wait, "idle": idle, "patient": patient, "play": play, "crash": crash, "descriptors": descriptors}

if __name__ == "__main__":
    sys.exit(main())
