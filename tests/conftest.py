"""What tests share: a tiny random subject, and the real default one."""

from __future__ import annotations

import logging
import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may depend on the network

from pathlib import Path

import pytest

from saefeat.atlas import Atlas
from saefeat.subject import Subject, load_subject
from tests.tiny import tiny_subject
from tests.tiny_atlas import build_tiny_atlas


@pytest.fixture(autouse=True)
def logging_as_in_a_new_process() -> None:
    """The command line sets up logging for its process; here it must not outlive the test that called it."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if not type(handler).__module__.startswith("_pytest"):
            root.removeHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("saefeat").setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def tiny() -> Subject:
    """A random 3-layer llama, 32 wide, 512 tokens of vocabulary and of context."""
    return tiny_subject()


@pytest.fixture(scope="session")
def default_subject() -> Subject:
    """The default model; fails if it was not fetched (`saefeat model fetch smollm2-135m-instruct`)."""
    return load_subject("smollm2-135m-instruct")


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model/, stories/, sae/, labels/ and indexes/tiny, the atlas; built once."""
    root = tmp_path_factory.mktemp("tiny")
    build_tiny_atlas(root)
    return root


@pytest.fixture(scope="session")
def talking_atlas(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    """A tiny atlas with readouts of dialogues: speaker, other and story; its label directory lies beside indexes/."""
    directory = build_tiny_atlas(tmp_path_factory.mktemp("talking"), dialogues=True)
    return Atlas.open(directory, device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def tiny_atlas(tiny_root: Path) -> Atlas:
    """The tiny atlas, open, its model in float32."""
    return Atlas.open(tiny_root / "indexes" / "tiny", device="cpu", dtype="float32")
