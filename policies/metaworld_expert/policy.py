"""The scripted expert of one Meta-World task. It sees the simulator's full state, so it says what can be reached at best."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

import shmbridge

STATE = shmbridge.TensorSpec("policy/state", (39,), "float64")
ACTION = shmbridge.TensorSpec("action", (4,), "float32")


@dataclass(frozen=True)
class MetaWorldExpertConfig:
    """Whose expert.

    Attributes:
        task: Meta-World's name of the task; the same that the simulator runs.
    """

    task: str = "drawer-open-v3"


@shmbridge.register_policy("metaworld_expert")
class MetaWorldExpertPolicy(shmbridge.Policy):
    """Maps ``policy/state`` (39,) float64 to ``action`` (4,) float32 in [-1, 1], one step at a time.

    Raises:
        ImportError: metaworld is not installed on this side.
        SpecError: Meta-World has no expert for the task.
    """

    config_type = MetaWorldExpertConfig

    def __init__(self, config: MetaWorldExpertConfig | None = None) -> None:
        config = config or MetaWorldExpertConfig()
        super().__init__(config)
        self._expert = _expert_class(config.task)()

    def specs(self, offered: Mapping[str, shmbridge.TensorSpec]) -> shmbridge.PolicySpecs:
        return shmbridge.PolicySpecs(observation=[STATE], action=[ACTION])

    def infer(self, session: None, observation: Mapping[str, np.ndarray], env_ids: Sequence[int]) -> dict[str, np.ndarray]:
        with warnings.catch_warnings():
            # Experts aim beyond the limits on purpose, and Meta-World warns of it at each step.
            warnings.filterwarnings("ignore", message=r"Constant\(s\) may be too high")
            actions = [self._expert.get_action(state) for state in observation[STATE.name].copy()]
        return {ACTION.name: np.clip(actions, -1.0, 1.0).astype(np.float32)[:, np.newaxis]}


def _expert_class(task: str) -> type:
    # Loaded here because a host that lists its policies need not have the simulator installed.
    try:
        from metaworld.policies import ENV_POLICY_MAP
    except ImportError as error:
        raise ImportError(f"the experts of Meta-World need metaworld on the policy's side: pip install 'metaworld>=3' ({error})") from error
    if task not in ENV_POLICY_MAP:
        raise shmbridge.SpecError(f"Meta-World has no expert for {task!r}; it has {', '.join(ENV_POLICY_MAP)}")
    return ENV_POLICY_MAP[task]
