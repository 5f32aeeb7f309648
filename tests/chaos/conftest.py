"""Fake hosts, as the integration tests have them."""

from tests.integration.conftest import _no_agent_of_the_developer, host, operator, shared_host, sshd, target

__all__ = ["_no_agent_of_the_developer", "host", "operator", "shared_host", "sshd", "target"]
