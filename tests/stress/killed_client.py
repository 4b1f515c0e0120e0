"""A simulator to be killed, or to see its host killed: ``killed_client.py NAME {wait,loop,once}``."""

import json
import sys
import time

import numpy as np

import shmbridge

FOREVER = np.array([1060.0])


def main() -> None:
    name, mode = sys.argv[1:]
    with shmbridge.connect(f"shm://{name}", example={"mark": np.zeros(1)}, num_envs=1, start_timeout=30, timeout=30) as client:
        client.act({"mark": np.array([1.0])})
        print("answered", flush=True)
        if mode == "wait":
            _wait(client)
        number = 1
        while mode == "loop":
            number += 1
            assert client.act({"mark": np.array([float(number % 900)])})["action"][0, 0] == number % 900


def _wait(client: shmbridge.Client) -> None:
    try:
        client.act({"mark": FOREVER})
    except shmbridge.PeerLostError as error:
        found = {"at": time.monotonic(), "peer": error.peer, "phase": error.phase, "sequence": error.sequence, "text": str(error)}
        print(json.dumps(found), flush=True)


main()
