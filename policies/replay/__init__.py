"""Plays recorded actions again."""

from shmbridge_policies.replay.policy import ReplayConfig, ReplayPolicy

__all__ = ["ReplayConfig", "ReplayPolicy"]
