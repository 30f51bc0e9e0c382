"""What tests share: a tiny random subject, and the real default one."""

from __future__ import annotations

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may depend on the network

import pytest

from saefeat.subject import Subject, load_subject
from tests.tiny import tiny_subject


@pytest.fixture(scope="session")
def tiny() -> Subject:
    """A random 3-layer llama, 32 wide, 512 tokens of vocabulary and of context."""
    return tiny_subject()


@pytest.fixture(scope="session")
def default_subject() -> Subject:
    """The default model; fails if it was not fetched (`saefeat model fetch smollm2-135m-instruct`)."""
    return load_subject("smollm2-135m-instruct")
