"""`saefeat train`: flags over a TOML file, the quality at the end, errors in one line, nothing done twice."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from saefeat.cli import cli
from saefeat.errors import InputError, ModelMismatch
from tests.tiny import TEXT
from tests.tiny_atlas import write_model


@pytest.fixture(scope="module")
def activations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verb")
    write_model(folder / "model")
    (folder / "text.txt").write_text("\n".join(f"{n} {TEXT} {n * n}" for n in range(30)))
    flags = ["--model", str(folder / "model"), "--text", str(folder / "text.txt"), "--layers", "1"]
    run("harvest", *flags, "--tokens", "4000", "--context", "32", "--out", str(folder / "activations"))
    return folder / "activations"


def run(*arguments: str, before: tuple[str, ...] = ()) -> Result:
    """The verb's result; an error the user caused is raised as itself."""
    all_arguments = ["--quiet", "--dtype", "float32", *before, *arguments]
    result = CliRunner().invoke(cli, all_arguments, catch_exceptions=False, standalone_mode=False)
    assert result.exit_code == 0, result.output
    return result


def test_flags_go_over_the_file_and_the_quality_is_told(activations: Path, tmp_path: Path) -> None:
    (tmp_path / "train.toml").write_text("features = 64\nk = 4\ntokens = 20_000\nbatch = 256\nlr = 2e-3\n")
    flags = ["--config", str(tmp_path / "train.toml"), "--k", "6", "--out", str(tmp_path / "sae"), "--json"]
    told = json.loads(run("train", str(activations), *flags, before=("--seed", "3")).stdout)
    written = json.loads((tmp_path / "sae" / "manifest.json").read_text())["config"]
    assert (written["features"], written["k"], written["seed"], written["layer"]) == (64, 6, 3, 1)
    assert 0 < told["quality"]["explained_variance"] < 1
    assert told["sae"] == str(tmp_path / "sae")
    changed = (tmp_path / "sae" / "sae_weights.safetensors").stat().st_mtime_ns
    again = json.loads(run("train", str(activations), *flags, before=("--seed", "3")).stdout)
    assert again == told
    assert (tmp_path / "sae" / "sae_weights.safetensors").stat().st_mtime_ns == changed


@pytest.mark.parametrize(
    ("text", "says"),
    [("feature = 64", "features"), ("k = 'many'", "k is 'many'"), ("k = ", "TOML")],
)
def test_a_wrong_config_is_named(activations: Path, tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "train.toml").write_text(text)
    with pytest.raises(InputError, match=says):
        run("train", str(activations), "--config", str(tmp_path / "train.toml"), "--out", str(tmp_path / "sae"))
    assert not (tmp_path / "sae").exists()


def test_another_model_is_told_before_the_training(activations: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "activations"
    shutil.copytree(activations, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["subject"]["weights"] = "0" * 16
    (copy / "manifest.json").write_text(json.dumps(manifest))
    flags = ["--features", "32", "--k", "4", "--tokens", "2000", "--batch", "256", "--out", str(tmp_path / "sae")]
    with pytest.raises(ModelMismatch, match="weights"):
        run("train", str(copy), *flags)
    assert not list(tmp_path.glob("sae*"))
    run("train", str(copy), *flags, before=("--allow-other-weights",))
    assert (tmp_path / "sae" / "cfg.json").exists()
