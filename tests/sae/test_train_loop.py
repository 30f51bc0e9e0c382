"""Training on a real harvest: it learns, it resumes exactly after SIGKILL, and says what is wrong."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from saefeat.config import HarvestConfig, TrainConfig
from saefeat.errors import InputError
from saefeat.harvest import ActivationStore, harvest
from saefeat.sae import load_sae, quality, train
from saefeat.subject import Subject
from tests.tiny import TEXT

CONFIG = TrainConfig(
    features=96, k=8, tokens=60_000, batch=256, checkpoint_every=7, dead_after=5_000, lr=2e-3, threshold_lr=0.05
)


@pytest.fixture(scope="module")
def store(tiny: Subject, tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    folder = tmp_path_factory.mktemp("train")
    (folder / "text.txt").write_text("\n".join(f"{n} {TEXT} {n * n}" for n in range(60)))
    config = HarvestConfig(text=(str(folder / "text.txt"),), layers=(1,), tokens=8_000, context=32, shard_contexts=64)
    return ActivationStore(harvest(tiny, config, folder / "activations"))


@pytest.fixture(scope="module")
def undisturbed(store: ActivationStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(store, CONFIG, tmp_path_factory.mktemp("sae") / "sae")


def test_it_learns_to_reconstruct(undisturbed: Path, store: ActivationStore, tiny: Subject) -> None:
    figures = quality(load_sae(undisturbed), store, tiny, share=0.1, max_tokens=1_000)
    assert figures["explained_variance"] > 0.6
    assert 4 < figures["l0"] < 16
    assert abs(figures["ce_sae"] - figures["ce_clean"]) < 0.05  # a random model's loss hardly depends on its stream


RUN = """
import sys
from pathlib import Path
from saefeat.harvest import ActivationStore
from saefeat.sae import train
from tests.sae.test_train_loop import CONFIG
train(ActivationStore(sys.argv[1]), CONFIG, Path(sys.argv[2]))
"""


@pytest.mark.parametrize("lines", [1, 3])
def test_a_killed_run_continued_equals_an_undisturbed_one(
    undisturbed: Path, store: ActivationStore, tmp_path: Path, lines: int
) -> None:
    out = tmp_path / "sae"
    run = subprocess.Popen([sys.executable, "-c", RUN, str(store.directory), str(out)])
    metrics = tmp_path / "sae.training" / "metrics.jsonl"
    while run.poll() is None and (not metrics.exists() or metrics.read_text().count("\n") < lines):
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    train(store, CONFIG, out)
    mine, theirs = (load_file(p / "sae_weights.safetensors") for p in (out, undisturbed))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert not (tmp_path / "sae.training").exists()


def test_a_finished_sae_is_left_alone_and_another_refused(undisturbed: Path, store: ActivationStore) -> None:
    before = (undisturbed / "sae_weights.safetensors").stat().st_mtime_ns
    train(store, CONFIG, undisturbed)
    assert (undisturbed / "sae_weights.safetensors").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="other settings"):
        train(store, TrainConfig(features=64, k=4), undisturbed)


def test_a_layer_that_was_not_harvested_is_refused(store: ActivationStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="was not harvested"):
        train(store, TrainConfig(layer=2, features=64, k=4), tmp_path / "sae")
