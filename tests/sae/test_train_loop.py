"""Training on a real harvest: it learns, it resumes exactly after SIGKILL, and says what is wrong."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from saefeat.config import HarvestConfig, TrainConfig
from saefeat.errors import FormatError, InputError
from saefeat.harvest import ActivationStore, harvest
from saefeat.sae import load_sae, quality, train
from saefeat.sae.train import checkpoint, input_scale, resume, start
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
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == [50, 100, 150, 200, 234]
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


def test_metrics_after_the_checkpoint_and_cut_lines_go(store: ActivationStore, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, layer=1)
    state = start(config, torch.zeros(store.d_model), store.d_model)
    for parameter in state.params:
        parameter.grad = torch.ones_like(parameter)
    state.adam.step()
    state.step, state.threshold = 7, 0.1 + 0.2
    checkpoint(state, tmp_path, "inputs")
    (tmp_path / "metrics.jsonl").write_text('{"step": 5}\n{"step": 10}\n{"st')
    fresh = start(config, torch.ones(store.d_model), store.d_model)
    resume(fresh, tmp_path, "inputs")
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 5}\n'
    assert (fresh.step, fresh.threshold) == (7, 0.1 + 0.2)
    assert all(torch.equal(a, b) for a, b in zip(fresh.params, state.params, strict=True))
    with pytest.raises(InputError, match="other settings"):
        resume(fresh, tmp_path, "others")
    (tmp_path / "checkpoint.safetensors").write_bytes(b"not a checkpoint at all")
    with pytest.raises(FormatError, match="no checkpoint"):
        resume(fresh, tmp_path, "inputs")


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka"])
def test_the_file_on_raw_vectors_is_the_trained_dictionary_on_scaled_ones(
    store: ActivationStore, tmp_path: Path, architecture: str
) -> None:
    from sae_lens import SAE as LensSAE

    config = dataclasses.replace(CONFIG, architecture=architecture, tokens=20_000, lr=5e-3)
    made = train(store, config, tmp_path / "sae")
    ours, theirs = load_sae(made), LensSAE.load_from_disk(str(made))
    x_ND = store.sample(1, 400, 1).float()
    xhat_ND = ours.decode(ours.encode(x_ND))
    torch.testing.assert_close(ours.W_dec_FD.norm(dim=1), torch.ones(96), rtol=2e-3, atol=0)
    assert 1 - float((x_ND - xhat_ND).square().sum() / (x_ND - x_ND.mean(0)).square().sum()) > 0.3
    pre_NF = (x_ND - ours.b_dec_D) @ ours.W_enc_DF + ours.b_enc_F
    clear_NF = (pre_NF - ours.threshold_F).abs() > 1e-5
    torch.testing.assert_close(ours.encode(x_ND)[clear_NF], theirs.encode(x_ND)[clear_NF], rtol=1e-4, atol=1e-5)
    own = ours.metadata["saefeat"]
    assert own["sink_norm"] == store.sink_norm[1] == ours.sink_norm
    assert own["subject"] == store.fingerprint
    assert (ours.layer, ours.name, theirs.cfg.metadata.hook_name) == (1, "L1", store.hook_point(1))


def test_inputs_are_scaled_to_their_width(store: ActivationStore) -> None:
    scale, mean_D = input_scale(store, 1, CONFIG)
    x_ND = scale * store.sample(1, 10**6, 0, heldout=CONFIG.heldout).float()
    assert float(x_ND.square().sum(1).mean()) == pytest.approx(store.d_model, rel=1e-3)
    torch.testing.assert_close(mean_D, x_ND.mean(0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_activations_that_are_no_numbers_stop_the_run(store: ActivationStore, tmp_path: Path, value: float) -> None:
    import shutil

    import h5py

    folder = tmp_path / "activations"
    shutil.copytree(store.directory, folder)
    for path in folder.glob("*.h5"):
        with h5py.File(path, "r+") as file:
            file["layer_1/x"][:] = torch.full((), value).numpy()
    with pytest.raises(InputError, match="mean squared norm"):
        train(ActivationStore(folder), CONFIG, tmp_path / "sae")
    assert not (tmp_path / "sae").exists()


def test_a_single_nan_is_found_in_its_batch(store: ActivationStore, tmp_path: Path) -> None:
    poisoned = ActivationStore(store.directory)
    real = poisoned.batches

    def batches(*args: object, **named: object):
        for n, x_ND in enumerate(real(*args, **named)):
            if n == 3:
                x_ND[5, 7] = torch.nan
            yield x_ND

    poisoned.batches = batches
    with pytest.raises(InputError, match="step 3 hold NaN"):
        train(poisoned, CONFIG, tmp_path / "sae")
    assert not (tmp_path / "sae").exists()


def test_a_folder_of_other_things_is_never_replaced(store: ActivationStore, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds other files"):
        train(store, CONFIG, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
