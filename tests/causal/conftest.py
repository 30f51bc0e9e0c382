"""What tests of the impossible-task study share."""

import pytest

from saefeat.causal import Sandbox


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    """A sandbox that was tried: that it holds is checked with a handful of forks before anything worse is run in it."""
    return Sandbox()
