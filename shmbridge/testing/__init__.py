"""Checks for authors of policies, environments and transports. They raise AssertionError with a sentence that says what is wrong."""

from shmbridge.testing.checks import check_environment, check_policy
from shmbridge.testing.fakes import MarkingPolicy, marks_of
from shmbridge.testing.names import leftovers, unique_name
from shmbridge.testing.transports import TRANSPORT_CHECKS, check_transport

__all__ = ["TRANSPORT_CHECKS", "MarkingPolicy", "check_environment", "check_policy", "check_transport", "leftovers", "marks_of", "unique_name"]
