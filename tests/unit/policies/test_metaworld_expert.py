"""The scripted experts."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import shmbridge
from shmbridge.testing import check_policy
from shmbridge_policies.metaworld_expert import MetaWorldExpertConfig, MetaWorldExpertPolicy

OFFERED = [shmbridge.TensorSpec("policy/state", (39,), "float64"), shmbridge.TensorSpec("policy/gripper", (4,), "float32")]


def test_without_metaworld_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "metaworld.policies", None)
    with pytest.raises(ImportError, match="pip install 'metaworld"):
        MetaWorldExpertPolicy()


class TestWithMetaWorld:
    @pytest.fixture(autouse=True)
    def _metaworld(self) -> None:
        pytest.importorskip("metaworld", reason="the experts are Meta-World's own")

    def test_policy_fulfils_its_contract(self) -> None:
        check_policy(MetaWorldExpertPolicy, OFFERED)

    def test_it_needs_the_state_alone(self) -> None:
        specs = MetaWorldExpertPolicy().specs({spec.name: spec for spec in OFFERED})
        assert [spec.name for spec in specs.observation] == ["policy/state"]

    def test_actions_stay_within_limits_and_no_warning_is_given(self, recwarn: pytest.WarningsRecorder) -> None:
        action = MetaWorldExpertPolicy().infer(None, {"policy/state": np.full((3, 39), 5.0)}, [0, 1, 2])["action"]
        assert action.shape == (3, 1, 4)
        assert action.dtype == np.float32
        assert np.abs(action).max() <= 1.0
        assert not recwarn.list

    def test_an_unknown_task_is_refused_with_those_there_are(self) -> None:
        with pytest.raises(shmbridge.SpecError, match="drawer-open-v3"):
            MetaWorldExpertPolicy(MetaWorldExpertConfig("drawer-paint-v3"))
