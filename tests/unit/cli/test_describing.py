"""What is said of an environment without running it."""

from __future__ import annotations

import json

from helpers import run_python

import shmbridge
from shmbridge.cli.describing import describe, description
from shmbridge.cli.wording import size
from shmbridge.connecting import connect
from shmbridge.testing import MarkingPolicy
from shmbridge.testing.fakes import MARK

CAMERA = shmbridge.TensorSpec("camera/rgb", (480, 640, 3), "uint8", unit="sRGB")
ACTION = shmbridge.TensorSpec("action", (4,), "float64", unit="m")


SPECS = shmbridge.EnvironmentSpecs([MARK, CAMERA], [ACTION])


def test_description_names_tensors_and_sizes():
    found = description(SPECS, 3)
    assert found["observation"] == {"mark": "() float64", "camera/rgb": "(480, 640, 3) uint8 [sRGB]"}
    assert found["action"] == {"action": "(4,) float64 [m]"}
    assert (found["num_envs"], found["slots"]) == (3, 2)
    assert found["bytes_at_most"] > 2 * 3 * 480 * 640 * 3


def test_a_session_that_takes_all_takes_just_these_bytes_for_observations():
    class All(MarkingPolicy):
        def specs(self, offered):
            return shmbridge.PolicySpecs(list(offered.values()), [ACTION])

    with connect(All(), observation_specs=SPECS.observation, num_envs=3) as client:
        agreed = client.agreement
    assert description(SPECS, 3)["bytes_at_most"] == agreed.layouts.observation.segment_size(agreed.slots)


def test_json_is_one_document_and_nothing_else(capsys):
    describe(SPECS, 3, as_json=True)
    found = capsys.readouterr()
    assert json.loads(found.out) == description(SPECS, 3)
    assert found.err == ""


def test_people_read_the_same_in_a_table(capsys):
    describe(SPECS, 3, as_json=False)
    text = capsys.readouterr().out
    assert all(word in text for word in ("camera/rgb", "offered", "action", "taken", "921,600", size(description(SPECS, 3)["bytes_at_most"])))


NOISY = """
import os
from shmbridge.cli.describing import quiet_stdout
with quiet_stdout():
    print("from Python")
    os.write(1, b"from C")
print("ours")
"""


def test_what_a_simulator_prints_is_not_on_standard_output():
    assert run_python(NOISY) == "ours\n"
