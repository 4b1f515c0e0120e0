"""Meta-World's scripted experts."""

from shmbridge_policies.metaworld_expert.policy import MetaWorldExpertConfig, MetaWorldExpertPolicy

__all__ = ["MetaWorldExpertConfig", "MetaWorldExpertPolicy"]
