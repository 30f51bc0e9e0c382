"""Training from the running model: what a harvest gives, several SAEs at once, exactly continued after a kill."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from saefeat.config import HarvestConfig, TrainConfig
from saefeat.errors import InputError
from saefeat.harvest import ActivationStore, Stream, harvest
from saefeat.sae import load_sae, quality, train, train_side_by_side
from saefeat.subject import Subject
from tests.forks import dies, dying, ended, fork, script
from tests.tiny import TEXT, tiny_subject

T = 32
CONFIG = TrainConfig(
    features=64, k=6, tokens=256 * 60, batch=256, checkpoint_every=7, dead_after=3_000, lr=2e-3, threshold_lr=0.05
)


def reading(folder: Path, *layers: int) -> HarvestConfig:
    return HarvestConfig(
        text=(str(folder / "text.txt"),), layers=layers, tokens=6_400, context=T, batch_contexts=8, shard_contexts=200
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streamed")
    (folder / "text.txt").write_text("\n".join(f"{n} {TEXT} {n * n}" for n in range(60)))
    return folder


def same_weights(a: Path, b: Path) -> bool:
    one, two = (load_file(path / "sae_weights.safetensors") for path in (a, b))
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_an_sae_from_the_stream_is_the_one_from_disk(tiny: Subject, folder: Path, tmp_path: Path) -> None:
    """The buffer holds all that is trained on, so that both mix alike: equal vectors in equal order."""
    store = ActivationStore(harvest(tiny, reading(folder, 1), tmp_path / "activations"))
    stream = Stream(tiny, reading(folder, 1), buffer_tokens=2 * 200 * T)
    made = [train(source, CONFIG, tmp_path / name) for source, name in ((store, "disk"), (stream, "streamed"))]
    assert same_weights(*made)
    cfgs = [json.loads((path / "cfg.json").read_text()) for path in made]
    assert cfgs[0] == cfgs[1]
    figures = [
        quality(load_sae(path), source, tiny, share=0.05, max_tokens=2_000)
        for path, source in zip(made, (store, stream), strict=True)
    ]
    assert figures[0] == pytest.approx(figures[1], rel=1e-4)
    assert figures[0]["explained_variance"] > 0.4


def test_a_small_buffer_gives_an_sae_as_good(tiny: Subject, folder: Path, tmp_path: Path) -> None:
    long = dataclasses.replace(CONFIG, tokens=256 * 200)
    large, small = (Stream(tiny, reading(folder, 1), buffer_tokens=n * T) for n in (400, 50))
    figures = [
        quality(load_sae(train(stream, long, tmp_path / name)), large, tiny, share=0.05, max_tokens=2_000)
        for stream, name in ((large, "large"), (small, "small"))
    ]
    assert figures[1]["explained_variance"] == pytest.approx(figures[0]["explained_variance"], abs=0.02)


def test_saes_side_by_side_are_those_trained_alone_and_share_the_forward_passes(
    tiny: Subject, folder: Path, tmp_path: Path
) -> None:
    changes: list[dict[str, object]] = [
        {"layer": 1},
        {"layer": 2, "k": 9},
        {"layer": 2, "features": 96, "seed": 4},
        {"layer": 1, "architecture": "matryoshka"},
    ]
    configs = [dataclasses.replace(CONFIG, data_seed=0, **change) for change in changes]
    outs = [tmp_path / f"sae_{i}" for i in range(len(configs))]
    together = Stream(tiny, reading(folder, 1, 2), buffer_tokens=50 * T)
    passes = counted(together)
    assert train_side_by_side(together, configs, outs) == outs
    both = len(passes)
    for i, config in enumerate(configs):
        alone = Stream(tiny, reading(folder, 1, 2), buffer_tokens=50 * T)
        passes = counted(alone)
        assert same_weights(train(alone, config, tmp_path / "alone" / str(i)), outs[i])
    assert abs(both - len(passes)) <= 2 * 4, "a forward pass for each SAE"  # a half may be filled ahead or not
    assert not list(tmp_path.glob("*.training"))


def counted(stream: Stream) -> list[int]:
    """How many contexts each forward pass of a stream takes."""
    sizes: list[int] = []
    forward = stream._forward
    stream._forward = lambda batch: sizes.append(len(batch)) or forward(batch)  # type: ignore[method-assign]
    return sizes


def test_a_store_feeds_several_saes_too(tiny: Subject, folder: Path, tmp_path: Path) -> None:
    store = ActivationStore(harvest(tiny, reading(folder, 1, 2), tmp_path / "activations"))
    configs = [dataclasses.replace(CONFIG, layer=layer) for layer in (1, 2)]
    made = train_side_by_side(store, configs, [tmp_path / "a", tmp_path / "b"])
    for config, path in zip(configs, made, strict=True):
        assert same_weights(train(store, config, tmp_path / f"alone_{config.layer}"), path)


def test_saes_that_cannot_be_trained_side_by_side_are_refused(tiny: Subject, folder: Path, tmp_path: Path) -> None:
    stream = Stream(tiny, reading(folder, 1), buffer_tokens=50 * T)
    outs = [tmp_path / "a", tmp_path / "b"]
    for change, says in (
        ({"batch": 128}, "differ in batch"), ({"tokens": 512}, "differ in tokens"), ({"seed": 1}, "order of their"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=says):
            train_side_by_side(stream, [CONFIG, dataclasses.replace(CONFIG, **change)], outs)
    with pytest.raises(InputError, match="to one folder"):
        train_side_by_side(stream, [CONFIG, CONFIG], [outs[0], outs[0]])
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- faults
PHASES = ("counting", "scale", "training", "checkpoint", "between", "finishing", "finished one", "tidying")


def killed_everywhere(where: str) -> None:
    """In each phase of training two SAEs: a kill, then the same command again."""
    folder = Path(where)
    subject, loop = tiny_subject(), sys.modules["saefeat.sae.train"]

    def run(name: str) -> None:
        configs = [dataclasses.replace(CONFIG, features=features) for features in (64, 48)]
        stream = Stream(subject, reading(folder, 1), buffer_tokens=50 * T)
        train_side_by_side(stream, configs, [folder / name / "a", folder / name / "b"])

    def struck(phase: str) -> None:
        target, function, after = {
            "counting": (Stream, "_packed", 0), "scale": (loop, "input_scale", 1), "training": (loop, "descend", 73),
            "checkpoint": (sys.modules["saefeat.sae.checkpoint"], "save_file", 5), "between": (loop, "checkpoint", 7),
            "finishing": (sys.modules["saefeat.sae.result"], "write_sae", 0), "finished one": (loop, "write_result", 1),
            "tidying": (loop.shutil, "rmtree", 3),  # each atomic directory clears up twice
        }[phase]  # fmt: skip
        setattr(target, function, dying(getattr(target, function), after=after))
        run(phase)
        if phase == "tidying":
            dies()

    run("undisturbed")
    codes = {}
    for phase in PHASES:
        killed = ended(fork(lambda phase=phase: struck(phase)))
        left = sorted(path.name for path in (folder / phase).glob("*")) if (folder / phase).exists() else []
        codes[phase] = [killed, ended(fork(lambda phase=phase: run(phase))), left]
    (folder / "codes.json").write_text(json.dumps(codes))


@pytest.fixture(scope="module")
def killed(folder: Path) -> dict[str, list[object]]:
    script("tests.sae.test_stream", "killed_everywhere", folder)
    return json.loads((folder / "codes.json").read_text())


@pytest.mark.parametrize("phase", PHASES)
def test_a_kill_in_any_phase_changes_nothing(folder: Path, killed: dict[str, list[object]], phase: str) -> None:
    assert killed[phase][:2] == [-9, 0]
    if phase in ("training", "between", "checkpoint"):
        assert killed[phase][2] == ["a.training", "b.training"], "nothing is written in place before it is whole"
    if phase == "finished one":
        assert "a" in killed[phase][2]  # type: ignore[operator]
        assert "b" not in killed[phase][2]  # type: ignore[operator]
    for name in ("a", "b"):
        made, expected = folder / phase / name, folder / "undisturbed" / name
        for file in ("sae_weights.safetensors", "sparsity.safetensors", "cfg.json", "manifest.json"):
            assert (made / file).read_bytes() == (expected / file).read_bytes(), file
        read = [(path / "metrics.jsonl").read_text().splitlines() for path in (made, expected)]
        steps = [[json.loads(line)["step"] for line in lines] for lines in read]
        assert steps[0] == steps[1] == [50, 60]
    assert sorted(path.name for path in (folder / phase).iterdir()) == ["a", "b"]
