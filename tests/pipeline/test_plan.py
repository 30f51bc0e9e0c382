"""A dry run foresees what a build does, sees what is done, refuses what the build refuses, and writes nothing."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from saefeat.cli.build import plan_text, size
from saefeat.cli.progress import duration
from saefeat.config import BuildConfig, HarvestConfig, LabelConfig, SaeConfig, SubjectConfig, TrainConfig
from saefeat.errors import InputError, MissingModel
from saefeat.pipeline import Plan, build, labelling, plan, shape, stages
from tests.tiny import TEXT, tiny_subject
from tests.tiny_atlas import write_corpus, write_model, write_sae


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inputs")
    write_model(root / "model")
    write_corpus(root / "stories")
    (root / "text").mkdir()
    for n in range(90):
        (root / "text" / f"{n}.txt").write_text(f"{n} {TEXT}\n{TEXT[n:]} {n * n}\n")
    return root


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (stages, shape, labelling):
        monkeypatch.setattr(module, "SECONDS", 0.05)


def config_of(root: Path, **changed: Any) -> BuildConfig:
    harvest = {"text": (str(root / "text"),), "layers": (0, 1), "tokens": 20_000, "context": 32, "shard_contexts": 256}
    train = {"layer": 1, "features": 256, "k": 6, "tokens": 40_000, "batch": 128, "checkpoint_every": 50}
    return BuildConfig(
        name="mine",
        subject=SubjectConfig(model=changed.get("model", str(root / "model")), device="cpu", dtype="float32"),
        harvest=HarvestConfig(**harvest | changed.get("harvest", {})),  # type: ignore[arg-type]
        train=TrainConfig(**train | changed.get("train", {})),  # type: ignore[arg-type]
        label=LabelConfig(stories=str(root / "stories")),
    )


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path below a folder with its size and the time of its last change."""
    found = ((path, path.stat()) for path in sorted(folder.rglob("*")))
    return {str(path.relative_to(folder)): (told.st_size, told.st_mtime_ns) for path, told in found}


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_what_is_foreseen_is_what_a_build_makes(inputs: Path, tmp_path: Path) -> None:
    config, out = config_of(inputs), tmp_path / "out"
    before = plan(config, out)
    assert [stage.name for stage in before.stages] == ["harvest", "train", "quality", "label", "index"]
    assert all(stage.done == 0 and stage.seconds > 0 and stage.memory_bytes > 0 for stage in before.stages)
    assert before.layers == (0, 1)
    assert not out.exists()

    done: dict[str, tuple[int, int]] = {}

    def report(stage: str) -> Any:
        return lambda now, total: done.__setitem__(stage, (now, total))

    build(config, out, report=report)
    assert before.stage("harvest").tokens == done["harvest"][0]
    assert before.stage("train").tokens == done["train"][0]
    assert before.stage("label").tokens == pytest.approx(done["label"][0], rel=0.02)
    made = {name: bytes_of(out / name) for name in ("activations", "sae", "labels", "mine")}
    foreseen = {"activations": "harvest", "sae": "train", "labels": "label", "mine": "index"}
    assert before.stage("harvest").disk_bytes == pytest.approx(made["activations"], rel=0.03)
    assert before.stage("train").disk_bytes == pytest.approx(made["sae"], rel=0.08)
    for folder, stage in foreseen.items():
        assert 0.4 < before.stage(stage).disk_bytes / made[folder] < 2.5, folder
    total = sum(stage.disk_bytes for stage in before.stages)
    assert total == pytest.approx(sum(made.values()), rel=0.04)

    written = tree(tmp_path)
    after = plan(config, out)
    assert [stage.done for stage in after.stages] == [1] * 5
    assert (after.disk_bytes, after.seconds, after.memory_bytes) == (0, 0, 0)
    assert tree(tmp_path) == written

    relabelled = dataclasses.replace(config, label=dataclasses.replace(config.label, ridge=3.0))
    assert [stage.done for stage in plan(relabelled, out).stages] == [1, 1, 1, 0, 0]
    with pytest.raises(InputError, match="holds an SAE of other settings"):
        plan(config_of(inputs, train={"k": 7}), out)
    with pytest.raises(InputError, match="holds a harvest with tokens"):
        plan(config_of(inputs, harvest={"tokens": 30_000}), out)
    assert tree(tmp_path) == written


class Killed(Exception):
    pass


def test_a_build_that_was_stopped_is_seen_as_far_as_it_came(inputs: Path, tmp_path: Path) -> None:
    def stopping(stage: str, share: float) -> Any:
        def progress(now: int, total: int) -> None:
            if now >= share * total:
                raise Killed

        return lambda name: progress if name == stage else None

    config, out = config_of(inputs), tmp_path / "out"
    with pytest.raises(Killed):
        build(config, out, report=stopping("harvest", 0.6))
    told = plan(config, out)
    assert told.stage("harvest").done == pytest.approx(256 / 625, abs=0.01)
    assert told.stage("train").done == 0
    with pytest.raises(Killed):
        build(config, out, report=stopping("train", 0.9))
    written = tree(tmp_path)
    told = plan(config, out)
    assert told.stage("harvest").done == 1
    assert told.stage("train").done == pytest.approx(250 / 312, abs=0.01)
    assert tree(tmp_path) == written


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"harvest": {"layers": (7,)}, "train": {"layer": 7}}, "has no layer 7"),
        ({"harvest": {"layers": ()}, "train": {"layer": None}}, "no layer to read"),
        ({"train": {"layer": 2}}, "train.layer is 2"),
        ({"harvest": {"text": ("nowhere.txt",)}}, "no such file"),
        ({"harvest": {"text": ()}}, "no text given"),
        ({"harvest": {"tokens": 100}}, "fewer than one batch"),
        ({"train": {"tokens": 100}}, "fewer than one batch"),
        ({"harvest": {"context": 4096}}, "context is 4096"),
        (
            {"harvest": {"tokens": 10**6}, "train": {"batch": 10**5, "tokens": 10**6}},
            "the text makes 2.... tokens, fewer",
        ),
    ],
)
def test_what_cannot_work_is_said(inputs: Path, tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan(config_of(inputs, **changed), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_said_before_the_work(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    with pytest.raises(InputError, match="GB of disk"):
        plan(config_of(inputs), tmp_path / "out")
    with pytest.raises(InputError, match="GB of disk"):
        build(config_of(inputs), tmp_path / "out")


def test_a_short_text_is_counted_and_said(inputs: Path, tmp_path: Path) -> None:
    told = plan(config_of(inputs, harvest={"tokens": 10**6}), tmp_path / "out")
    assert 0 < told.stage("harvest").tokens < 10**6
    assert any("the text holds" in note for note in told.notes)
    (tmp_path / "short.txt").write_text("Too short.")
    with pytest.raises(InputError, match="shorter than one context"):
        plan(config_of(inputs, harvest={"text": (str(tmp_path / "short.txt"),)}), tmp_path / "out")


def test_a_model_that_is_not_there_is_reckoned_by_its_size(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAEFEAT_HOME", str(tmp_path / "home"))
    told = plan(config_of(inputs, model="smollm2-135m-instruct"), tmp_path / "out")
    assert any("not on this machine" in note for note in told.notes)
    assert "by FLOPs" in told.stage("harvest").basis
    assert told.stage("harvest").disk_bytes > 20_000 * 576 * 4 * 2
    weightless = tmp_path / "weightless"
    tiny_subject().model.config.save_pretrained(weightless)
    told = plan(config_of(inputs, model=str(weightless)), tmp_path / "out")
    assert told.stage("harvest").disk_bytes == pytest.approx(20_000 * 32 * 4 * 2, rel=0.1)
    with pytest.raises(InputError, match="has no layer 30"):
        plan(config_of(inputs, model="smollm2-135m-instruct", harvest={"layers": (1, 30)}), tmp_path / "out")
    with pytest.raises(MissingModel, match="not on this machine"):
        plan(config_of(inputs, model="some/unknown"), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weightless"]


def test_the_plan_of_an_sae_that_is_there_already(inputs: Path, tmp_path: Path) -> None:
    sae = write_sae(tmp_path / "theirs", tiny_subject())
    config = BuildConfig(
        name="mine",
        subject=SubjectConfig(device="cpu", dtype="float32"),
        sae=SaeConfig(from_=str(sae), model=str(inputs / "model")),
        label=LabelConfig(stories=str(inputs / "stories")),
    )
    written, out = tree(tmp_path), tmp_path / "out"
    before = plan(config, out)
    assert tree(tmp_path) == written
    assert [stage.name for stage in before.stages] == ["sae", "label", "index"]
    built = build(config, out)
    assert built.activations is None
    made = bytes_of(out / "sae")
    assert before.stage("sae").disk_bytes == pytest.approx(made, rel=0.1)
    written = tree(tmp_path)
    assert [stage.done for stage in plan(config, out).stages] == [1, 1, 1]
    assert tree(tmp_path) == written


def test_a_release_is_not_fetched_for_a_dry_run(inputs: Path, tmp_path: Path) -> None:
    config = BuildConfig(
        sae=SaeConfig(from_="some-scope/layer_1_width_16k", model=str(inputs / "model")),
        subject=SubjectConfig(device="cpu", dtype="float32"),
        label=LabelConfig(stories=str(inputs / "stories")),
    )
    told = plan(config, tmp_path / "out")
    assert told.layers == (1,)
    assert "16,384 features of layer 1, by its name" in told.notes[0]
    assert not (tmp_path / "out").exists()


def test_a_person_reads_a_table(inputs: Path, tmp_path: Path) -> None:
    told = plan(config_of(inputs), tmp_path / "out")
    assert isinstance(told, Plan)
    assert json.loads(json.dumps(told.to_dict()))["stages"][0]["tokens"] == told.stage("harvest").tokens
    text = plan_text(told)
    for stage in told.stages:
        assert f"{stage.name}: {stage.basis}" in text
    assert [size(n) for n in (12, 1.2e3, 3.4e6, 5e9, 7e12)] == ["12 B", "1.2 kB", "3.4 MB", "5.0 GB", "7.0 TB"]
    assert [duration(s) for s in (3, 600, 12_000)] == ["3 s", "10 min", "3 h 20 min"]
