"""One container ends while the other waits for it: noticed, named, and made good by starting it again. The times are printed, not judged."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Callable

import pytest
from boxes import FILES, Box, Boxes, Ending

Record = Callable[[str, object], None]
WAITING = "waiting for an action"


@pytest.mark.parametrize(
    ("words", "status", "said"), [(("kill", "--signal", "KILL"), 137, "is gone"), (("stop",), 143, "the host is stopping")], ids=["kill", "stop"]
)
def test_client_that_waits_notices_the_end_of_the_hosts_container(
    boxes: Boxes, words: tuple[str, ...], status: int, said: str, record_property: Record
) -> None:
    host, client = boxes.ready_host(), boxes.client("wait")
    _until_thinking(host, client)
    ending = host.end(*words)
    found = client.ended()
    _report(f"the client noticed a {words[0]} of the host's container", found["at"], ending, record_property)
    assert (found["type"], found["peer"], found["phase"], found["sequence"]) == ("PeerLostError", "host 'default'", WAITING, 2), found
    assert said in found["text"], found["text"]
    assert (found["status"], host.wait()) == (1, status)
    host.call("start")
    assert boxes.client("once").ended()["event"] == "answered", "the host that was started again does not serve"


def test_evaluation_whose_host_is_killed_ends_with_status_1_and_names_it(boxes: Boxes) -> None:
    host, runner = boxes.ready_host(), boxes.runner("--num_steps", "1000000")
    host.until_said("begins: 1 environment")
    host.call("kill", "--signal", "KILL")
    assert runner.wait() == 1
    assert "host 'default' is gone" in runner.logs, runner.logs
    host.wait()
    host.call("start")
    again = boxes.runner("--num_episodes", "1")
    assert again.wait() == 0, again.logs


@pytest.mark.parametrize("mode", ["wait", "idle"])
def test_host_notices_the_end_of_the_clients_container(boxes: Boxes, mode: str, record_property: Record) -> None:
    host, client = boxes.ready_host(), boxes.client(mode)
    _until_thinking(host, client) if mode == "wait" else client.until_told("answered")
    ending = client.end("kill", "--signal", "KILL")
    host.until_said("is gone without a goodbye")
    _report(f"the host noticed a kill of the client's container ({mode})", _said_at(host, "is gone without"), ending, record_property)
    assert f"after observation {2 if mode == 'wait' else 1}" in host.logs
    host.run("touch", "/tmp/enough")
    client.wait()
    host.until_nothing_but(FILES)
    client.call("start")
    assert client.until_told("answered", 2)["born"] == client.events[0]["born"], "the client that was started again met another host"


def test_paused_host_is_silent_and_goes_on_where_it_was(boxes: Boxes) -> None:
    host, client = boxes.ready_host(), boxes.client("patient")
    client.until_told("answered")
    host.call("pause")
    silent = client.until_told("timed out")
    host.call("unpause")
    assert "is silent" in silent["text"], silent
    went_on = client.ended()
    assert (went_on["event"], went_on["born"]) == ("answered", client.events[0]["born"]), went_on


def _until_thinking(host: Box, client: Box) -> None:
    client.until_told("answered")
    host.until_said("thinking")


def _said_at(box: Box, text: str) -> float:
    """Return when a line was written, on the monotonic clock."""
    line = next(line for line in box.timed_logs.splitlines() if text in line)
    match = re.match(r"(\S+?)(\.\d{6})\d*(Z|[+-]\d\d:\d\d) ", line)
    assert match, f"no time in {line}"
    written = datetime.datetime.fromisoformat(match[1] + match[2] + match[3].replace("Z", "+00:00"))
    return written.timestamp() - time.time() + time.monotonic()


def _report(what: str, noticed: float, ending: Ending, record_property: Record) -> None:
    asked, gone = (noticed - ending.asked) * 1e3, (noticed - ending.gone) * 1e3
    record_property("after_asking_ms", round(asked, 1))
    record_property("after_the_end_ms", round(gone, 1))
    print(f"{what} {asked:.1f} ms after the engine was asked, {gone:+.1f} ms after the first process was gone")
