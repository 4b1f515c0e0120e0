"""Clients that nobody would want beside them: ``disturber.py NAME KIND``. Each goes on until it is ended."""

import contextlib
import os
import struct
import sys
import time

from stress.crowd_player import PATIENCE_SECONDS, Player, connect
from stress.crowd_policy import FAIL
from stress.raw_client import RawClient

import shmbridge
from shmbridge.connecting import connect_shm
from shmbridge.errors import PolicyRaisedError, ShmbridgeError
from shmbridge.layout import ObservationHeader
from shmbridge.memory.waiting import Deadline
from shmbridge.messages import Failure, Ping, encode
from shmbridge.session import Offer

SEED = 99
PINGS, PINGS_AT_A_TIME = 100_000, 1000
SPECS = (shmbridge.TensorSpec("horizon_2/steps_1/state", (3,), "int64"),)


@contextlib.contextmanager
def telling(kind):
    """Tell of the error that must come."""
    try:
        yield
    except kind as error:
        print("disturbing:", str(error).partition("\n")[0], flush=True)
    else:
        raise AssertionError(f"no {kind.__name__} came")


def keep_asking(name, pause=0.0):
    with connect(name, SEED) as client:
        player = Player(client, SEED)
        while True:
            player.play(5)
            print("disturbing:", flush=True)
            time.sleep(pause)


def be_slow(name):
    keep_asking(name, pause=0.3)


def let_the_policy_fail(name):
    with connect(name, SEED) as client:
        observation = {spec.name: spec.generate(client.agreement.num_envs) for spec in client.specs.observation}
        while True:
            client.reset(task=FAIL)
            with telling(PolicyRaisedError):
                client.infer(observation)
            client.reset()


def come_and_go(name):
    while True:
        connect(name, SEED).close()
        print("disturbing:", flush=True)


def ask_for_what_nobody_has(name):
    while True:
        with telling(shmbridge.SpecError):
            connect(name, SEED, observation_specs=[shmbridge.TensorSpec("unheard_of", (3,), "float32")])


def break_the_rules(name, numbers, *, of_another=0, take=True):
    """Send observations of these numbers, again and again, until the host ends the session; then open another one."""
    while True:
        connection = connect_shm(name, Offer(SPECS, 2, 2), PATIENCE_SECONDS)
        try:
            with telling(ShmbridgeError):
                for number in numbers:
                    slot = connection.loan(Deadline(PATIENCE_SECONDS))
                    slot.write_header(ObservationHeader(connection.agreement.generation + of_another, number, 0, 1))
                    connection.publish(number)
                    if take:
                        connection.release(connection.take(Deadline(PATIENCE_SECONDS)))
        finally:
            connection.close()


def say(name, data):
    """Say something that is no message in a session, and wait for what comes of it."""
    while True:
        client = RawClient(name)
        client.open_session(SPECS)
        client.socket.sendall(data)
        print("disturbing:", client.hear_a(Failure).text, flush=True)
        client.close()


def never_attach(name):
    """Take a welcome and do nothing with it, until the host hangs up."""
    while True:
        client = RawClient(name)
        client.be_welcomed(SPECS)
        assert client.hear() is None
        print("disturbing: the host hung up", flush=True)
        client.close()


def ask_and_not_listen(name):
    """Ask what the host is doing, again and again, and read no answer."""
    client = RawClient(name)
    client.open_session(SPECS)
    data = encode(Ping())
    question = struct.pack("<I", len(data)) + data
    while True:
        for _ in range(PINGS // PINGS_AT_A_TIME):
            client.socket.sendall(question * PINGS_AT_A_TIME)
        print("disturbing:", PINGS, "questions", flush=True)


def ring_all_the_time(name):
    """Ring the doorbell that all clients of a host share until it cannot count any further."""
    client = RawClient(name)
    client.open_session(SPECS)
    while True:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(client.descriptors[2], 2**64 - 2)
        print("disturbing:", flush=True)
        time.sleep(0.001)


KINDS = {
    "asks all the time": keep_asking,
    "is slow": be_slow,
    "lets the policy fail": let_the_policy_fail,
    "comes and goes": come_and_go,
    "asks for what nobody has": ask_for_what_nobody_has,
    "leaves numbers out": lambda name: break_the_rules(name, [1, 2, 5]),
    "repeats a number": lambda name: break_the_rules(name, [1, 1]),
    "speaks for another session": lambda name: break_the_rules(name, [1], of_another=1),
    "never takes answers": lambda name: break_the_rules(name, range(1, 100), take=False),
    "says half a message": lambda name: say(name, b"\x10\0\0\0half"),
    "says what is no message": lambda name: say(name, b"\xff" * 64),
    "never attaches": never_attach,
    "asks and does not listen": ask_and_not_listen,
    "rings all the time": ring_all_the_time,
}


def main():
    KINDS[sys.argv[2]](sys.argv[1])


if __name__ == "__main__":
    main()
