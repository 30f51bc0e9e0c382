"""`saefeat build` from the command line: flags over files, one line and exit 2 for what cannot be."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from saefeat.cli import VERBS, cli
from saefeat.cli.build import atlas_name, quality_line
from saefeat.cli.common import report_errors
from saefeat.pipeline import labelling, shape, stages
from tests.tiny_atlas import write_corpus, write_model

SPARSIFY = Path(__file__).parents[1] / "data" / "sparsify"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inputs")
    write_model(root / "model")
    write_corpus(root / "stories")
    return root


def run(*arguments: object) -> Result:
    """The command as `main` runs it: errors become a line and an exit code."""
    import click

    @click.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
    @click.argument("rest", nargs=-1, type=click.UNPROCESSED)
    def whole(rest: tuple[str, ...]) -> None:
        with report_errors():
            cli.main([*rest], standalone_mode=False)

    return CliRunner().invoke(whole, ["--device", "cpu", "--dtype", "float32", "-q", *map(str, arguments)])


def test_an_sae_of_others_is_labelled_and_asked_from_the_command_line(inputs: Path, tmp_path: Path) -> None:
    flags = ["--sae", SPARSIFY / "topk" / "layers.1", "--model", inputs / "model", "--stories", inputs / "stories"]
    done = run("build", *flags, "--name", "theirs", "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["quality"]["on"] == "stories"
    asked = run("--atlas", told["atlas"], "nearest", "The rent was due and nobody would answer", "--json")
    assert asked.exit_code == 0, asked.output
    assert json.loads(asked.stdout)["emotions"]
    shown = run("build", *flags, "--name", "theirs", "--out", tmp_path / "out")
    assert f"saefeat --atlas {tmp_path / 'out' / 'theirs'} nearest TEXT" in shown.stdout
    assert "SAE on the stories: explained variance" in shown.stdout


def test_a_toml_file_names_the_sae_and_flags_go_over_it(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        f'name = "mine"\n[subject]\nmodel = "{inputs}/model"\n[label]\nstories = "{inputs}/stories"\n'
        f'[sae]\nfrom = "{tmp_path}/nowhere"\n'
    )
    refused = run("build", tmp_path / "mine.toml", "--out", tmp_path / "out")
    assert refused.exit_code == 2
    assert "no such SAE" in refused.stderr
    sae = SPARSIFY / "groupmax" / "layers.1"
    done = run("build", tmp_path / "mine.toml", "--sae", sae, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["atlas"] == str(tmp_path / "out" / "mine")


def test_a_dry_run_prints_and_writes_nothing(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAEFEAT_HOME", str(tmp_path / "home"))
    for module in (stages, shape, labelling):
        monkeypatch.setattr(module, "SECONDS", 0.05)
    flags = ["--sae", SPARSIFY / "topk" / "layers.1", "--model", inputs / "model", "--stories", inputs / "stories"]
    done = run("build", *flags, "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert [stage["name"] for stage in told["stages"]] == ["sae", "label", "index"]
    assert told["out"] == str(tmp_path / "home" / "builds" / "topk-layers.1")
    assert {"tokens", "disk_bytes", "memory_bytes", "seconds", "basis", "done"} <= set(told["stages"][0])
    shown = run("build", *flags, "--dry-run")
    assert "still to do" in shown.stdout
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build"], "nothing to build"),
        (["build", "nowhere.toml"], "no such file"),
        (["build", "--sae", "./nowhere"], "no such SAE"),
        (["build", "--sae", "./nowhere", "--dry-run"], "no such SAE"),
        (["build", "--sae", "no-such-release/x"], "release"),
        (["build", "--sae", str(SPARSIFY / "topk")], "name one of layers.1 in it"),
        (["build", "--sae", str(SPARSIFY / "transcoder" / "layers.1.mlp")], "transcoder"),
        (["build", "--sae", str(SPARSIFY / "topk" / "layers.1")], "trained on tiny-organisation/tiny-llama"),
        (["build", "--sae", "x", "--stories", "nowhere"], "no such story corpus"),
        (["build", "--sae", str(SPARSIFY / "topk" / "layers.1"), "--layer", "2"], "reads layer 1, not 2"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run(*arguments, *(["--out", tmp_path / "out"] if len(arguments) > 1 else []))
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_dry_run_refuses_what_the_build_would(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(
        f'[subject]\nmodel = "{inputs}/model"\n[harvest]\nlayers = [9]\ntext = ["x.txt"]\n'
        f'[label]\nstories = "{inputs}/stories"\n'
    )
    for more in ([], ["--dry-run"]):
        done = run("build", tmp_path / "c.toml", "--out", tmp_path / "out", *more)
        assert done.exit_code == 2
        assert "has no layer 9" in done.stderr
    assert sorted(os.listdir(tmp_path)) == ["c.toml"]


def test_names_and_lines() -> None:
    assert atlas_name("gemma-scope/layer_20/width_16k") == "gemma-scope-layer_20-width_16k"
    assert atlas_name(str(SPARSIFY / "topk" / "layers.1")) == "topk-layers.1"
    figures: dict[str, Any] = {"explained_variance": 0.81, "l0": 48.0, "dead_share": 0.0, "ce_recovered": 0.9}
    assert quality_line(figures).startswith("SAE on held-out tokens: explained variance 0.81, L0 48, dead 0,")
    assert "build" in VERBS
