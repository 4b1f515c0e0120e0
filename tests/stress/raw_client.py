"""The client's side of a control connection by hand, for clients that break the rules or stop half-way."""

import os
import socket

from shmbridge.memory.naming import socket_path
from shmbridge.memory.posix import libc_version
from shmbridge.messages import PROTOCOL_VERSION, Attached, Hello, Welcome
from shmbridge.protocol import Conversation, Role

PATIENCE_SECONDS = 120.0


class RawClient:
    """A socket to a host, and what a client could say on it.

    Attributes:
        descriptors: What came beside a welcome: both rings and the doorbell.
    """

    def __init__(self, name):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE_SECONDS)
        self.socket.connect(socket_path(name))
        self._conversation = Conversation(Role.CLIENT)
        self._heard = []
        self.descriptors = []

    def say(self, message):
        self.socket.sendall(self._conversation.send(message))

    def hear(self):
        """Return the next message; None once the host hung up."""
        while not self._heard:
            try:
                data, descriptors, _, _ = socket.recv_fds(self.socket, 65_536, 8)
            except ConnectionError:
                return None
            self.descriptors += descriptors
            if not data:
                return None
            self._heard = self._conversation.receive(data)
        return self._heard.pop(0)

    def hear_a(self, kind):
        while not isinstance(message := self.hear(), kind):
            assert message is not None, f"the host hung up before it said {kind.__name__}"
        return message

    def be_welcomed(self, specs, num_envs=1, slots=2):
        """Shake hands up to the welcome, and open nothing of what it names."""
        fields = {"protocol": PROTOCOL_VERSION, "version": "0", "libc": libc_version(), "client": f"raw client {os.getpid()}"}
        self.say(Hello(**fields, num_envs=num_envs, slots=slots, observation=list(specs)))
        return self.hear_a(Welcome)

    def open_session(self, specs, num_envs=1, slots=2):
        """Be a client as far as the host can tell."""
        welcome = self.be_welcomed(specs, num_envs, slots)
        self.say(Attached())
        return welcome

    def close(self):
        while self.descriptors:
            os.close(self.descriptors.pop())
        self.socket.close()
