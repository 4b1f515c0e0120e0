"""One of a crowd: ``crowd_client.py NAME SEED``. It opens session after session, each of another kind and ended in another way, and then dies in one.

Every reply is compared with that of a policy in this process. It says ``right N`` now and then, N replies since it began, and ``wrong …`` once
something differs.
"""

import os
import random
import signal
import sys
import threading
import time

from stress.crowd_player import PATIENCE_SECONDS, Player, connect, options_of
from stress.crowd_policy import Remembering
from stress.raw_client import RawClient

import shmbridge
from shmbridge.connecting import connect_shm
from shmbridge.errors import RemoteProtocolError
from shmbridge.layout import ObservationHeader
from shmbridge.memory.waiting import Deadline
from shmbridge.session import Offer

MOST_SESSIONS = 8
SPECS = (shmbridge.TensorSpec("horizon_2/steps_1/state", (3,), "int64"),)


class Guest:
    """What this process does, one session after the other."""

    def __init__(self, name, seed):
        self._name, self._rng = name, random.Random(seed)
        self._replies = self._sessions = 0

    def visit(self):
        for _ in range(self._rng.randrange(MOST_SESSIONS)):
            self._rng.choice(ENDS)(self)
        self._rng.choice(DEATHS)(self)

    def leave(self):
        """Play and say goodbye."""
        self._play(self._rng.randrange(80))

    def be_interrupted(self):
        """Leave by an exception that comes wherever the interpreter is, nearly always within an exchange. Again and again, because numpy loses some."""

        def interrupt(number, frame):
            raise SystemExit(7)

        signal.signal(signal.SIGALRM, interrupt)
        try:
            self._play(1_000_000, before=lambda: signal.setitimer(signal.ITIMER_REAL, self._rng.uniform(0.001, 0.2), 0.1))
        except SystemExit:
            pass

    def hang_up_unattached(self):
        """Take the welcome and nothing of what it names."""
        client = RawClient(self._name)
        client.be_welcomed(SPECS, self._rng.randint(1, 5))
        client.close()

    def never_attach(self):
        """As before, but it is the host that must hang up."""
        client = RawClient(self._name)
        client.be_welcomed(SPECS)
        assert client.hear() is None
        client.close()

    def break_the_rules(self):
        connection = connect_shm(self._name, Offer(SPECS, 2, 2), PATIENCE_SECONDS)
        try:
            connection.loan(Deadline(PATIENCE_SECONDS)).write_header(ObservationHeader(connection.agreement.generation, 3, 0, 1))
            connection.publish(3)
            connection.take(Deadline(PATIENCE_SECONDS))
        except RemoteProtocolError:
            connection.close()
        else:
            print("wrong: nobody minded a wrong number", flush=True)

    def be_killed(self):
        """Die at any moment, connecting and leaving included."""
        threading.Thread(target=self._kill_after, args=(self._rng.uniform(0.0, 0.5),), daemon=True).start()
        while True:
            self._play(self._rng.randrange(40))

    def exit_without_a_goodbye(self):
        self._play(self._rng.randrange(80), before_the_end=lambda: os._exit(0))

    def exit_in_the_handshake(self):
        RawClient(self._name).be_welcomed(SPECS)
        os._exit(0)

    def exit_within_a_message(self):
        client = RawClient(self._name)
        client.open_session(SPECS)
        client.socket.sendall(b"\x10\0\0\0half")
        os._exit(0)

    def _play(self, moves, before=lambda: None, before_the_end=lambda: None):
        seed = self._rng.randrange(1 << 30)
        with connect(self._name, seed) as client, shmbridge.connect(Remembering(), **options_of(seed)) as mirror:
            player = Player(client, seed, mirror)
            before()
            try:
                while moves > 0:
                    player.play(min(10, moves))
                    moves -= 10
                    self._tell(player)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                self._replies += player.replies
            before_the_end()

    def _tell(self, player):
        print(f"wrong: {player.wrong}" if player.wrong else f"right {self._replies + player.replies}", flush=True)

    def _kill_after(self, seconds):
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)


ENDS = [*[Guest.leave] * 3, *[Guest.be_interrupted] * 3, Guest.hang_up_unattached, Guest.never_attach, Guest.break_the_rules]
DEATHS = [Guest.leave, *[Guest.be_killed] * 3, Guest.exit_without_a_goodbye, Guest.exit_in_the_handshake, Guest.exit_within_a_message]

if __name__ == "__main__":
    Guest(sys.argv[1], int(sys.argv[2])).visit()
