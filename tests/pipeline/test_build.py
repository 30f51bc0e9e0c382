"""The chain as a whole, on a tiny model: it runs, it reuses what is done, it continues after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from saefeat.atlas import Atlas
from saefeat.config import BuildConfig, HarvestConfig, LabelConfig, SubjectConfig, TrainConfig
from saefeat.errors import InputError
from saefeat.pipeline import build
from tests.tiny import TEXT
from tests.tiny_atlas import write_corpus, write_model

TOML = """
name = "mine"
[subject]
model = "{root}/model"
device = "cpu"
dtype = "float32"
[harvest]
text = ["{root}/text"]
layers = [1]
tokens = 6000
context = 32
shard_contexts = 64
[train]
features = 64
k = 6
tokens = 40000
batch = 128
checkpoint_every = 20
[label]
stories = "{root}/stories"
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inputs")
    write_model(root / "model")
    write_corpus(root / "stories")
    (root / "text").mkdir()
    for n in range(30):
        (root / "text" / f"{n}.txt").write_text(f"{n} {TEXT}\n{TEXT[n:]} {n * n}\n")
    (root / "mine.toml").write_text(TOML.format(root=root))
    return root


def run(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "saefeat", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file's bytes, but for the locks, which name who held them last."""
    found = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def test_a_build_killed_in_every_stage_continues_and_a_finished_one_is_reused(inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for sign in ("activations/manifest.json", "sae.training/checkpoint.safetensors", "labels/pools.h5"):
        process = run("build", str(inputs / "mine.toml"), "--out", str(out))
        while process.poll() is None and not (out / sign).exists():
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    done = run("build", str(inputs / "mine.toml"), "--out", str(out), "--json")
    text, log = done.communicate()
    assert done.returncode == 0, log
    atlas = Path(json.loads(text)["atlas"])
    [result] = Atlas.open(atlas).nearest([TEXT], top=3)
    assert len(result["emotions"]) == 3

    before = files_of(out)
    again = run("build", str(inputs / "mine.toml"), "--out", str(out), "--json")
    assert json.loads(again.communicate()[0])["atlas"] == str(atlas)
    assert files_of(out) == before


@pytest.mark.parametrize(
    ("harvest", "train", "message"),
    [
        (HarvestConfig(), TrainConfig(), "no layer to read"),
        (HarvestConfig(layers=(0, 1)), TrainConfig(), "harvested are"),
        (HarvestConfig(layers=(1,)), TrainConfig(layer=2), "train.layer is 2"),
        (HarvestConfig(layers=(7,)), TrainConfig(), "has no layer 7"),
        (HarvestConfig(layers=(1,), tokens=1000), TrainConfig(), "harvest.tokens = 1000 are fewer than one batch"),
        (HarvestConfig(layers=(1,)), TrainConfig(tokens=1000), "train.tokens = 1000 are fewer than one batch"),
    ],
)
def test_a_layer_that_cannot_be_is_said_before_any_work(
    inputs: Path, tmp_path: Path, harvest: HarvestConfig, train: TrainConfig, message: str
) -> None:
    config = BuildConfig(
        subject=SubjectConfig(model=str(inputs / "model"), device="cpu", dtype="float32"),
        harvest=harvest,
        train=train,
        label=LabelConfig(stories=str(inputs / "stories")),
    )
    with pytest.raises(InputError, match=message):
        build(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()
