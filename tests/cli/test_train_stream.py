"""`saefeat train --stream`, several SAEs by one command, and both verbs under torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from saefeat.cli import cli
from saefeat.errors import InputError
from saefeat.harvest import ActivationStore
from tests.tiny import TEXT
from tests.tiny_atlas import write_model

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
ALONE = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
SMALL = ["--features", "32", "--k", "4", "--tokens", "3000", "--batch", "256"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streaming")
    write_model(folder / "model")
    (folder / "text.txt").write_text("\n".join(f"{n} {TEXT} {n * n}" for n in range(40)))
    return folder


def streaming(folder: Path) -> list[str]:
    return ["--stream", str(folder / "text.txt"), "--model", str(folder / "model"), "--context", "32"]


def run(*arguments: str) -> dict:
    everything = ["--quiet", "--dtype", "float32", *arguments, "--json"]
    result = CliRunner().invoke(cli, everything, catch_exceptions=False, standalone_mode=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_one_sae_goes_where_it_is_told_and_a_second_call_does_nothing(folder: Path, tmp_path: Path) -> None:
    given = ["train", *streaming(folder), "--layers", "1", *SMALL, "--out", str(tmp_path / "sae")]
    told = run(*given)
    assert told["sae"] == str(tmp_path / "sae")
    assert 0 < told["quality"]["explained_variance"] < 1
    assert [path.name for path in tmp_path.iterdir()] == ["sae"], "something but the SAE is on disk"
    before = (tmp_path / "sae" / "sae_weights.safetensors").stat().st_mtime_ns
    assert run(*given) == told
    assert (tmp_path / "sae" / "sae_weights.safetensors").stat().st_mtime_ns == before


def test_a_grid_makes_a_folder_for_each(folder: Path, tmp_path: Path) -> None:
    grid = [
        "--layers",
        "0,1",
        "--features",
        "32,48",
        "--k",
        "4",
        "--seeds",
        "0,3",
        "--tokens",
        "1500",
        "--batch",
        "256",
    ]
    told = run("train", *streaming(folder), *grid, "--buffer-tokens", "1024", "--out", str(tmp_path))
    expected = [f"L{layer}-f{f}-k4-s{seed}" for layer in (0, 1) for f in (32, 48) for seed in (0, 3)]
    assert [Path(sae["sae"]).name for sae in told["saes"]] == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(expected)
    for name in expected:
        config = json.loads((tmp_path / name / "manifest.json").read_text())["config"]
        assert f"L{config['layer']}-f{config['features']}-k{config['k']}-s{config['seed']}" == name
        assert config["data_seed"] == 0


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--layers", "1"], "nothing to train on"),
        (["activations", "--stream", "text.txt"], "both ACTIVATIONS and --stream"),
        (["--stream", "TEXT"], "no layer to read"),
        (["--stream", "TEXT", "--layers", "1;2"], "--layers is '1;2'"),
        (["--stream", "TEXT", "--layers", "9"], "no layer 9"),
        (["--stream", "TEXT", "--layers", "1", "--features", "many"], "--features is 'many'"),
        (["--stream", "TEXT", "--layers", "1", "--features", "8", "--k", "4,9"], "k must lie between"),
        (["--stream", "nowhere.txt", "--layers", "1"], "no such file"),
        (["--stream", "TEXT", "--layers", "1", "--buffer-tokens", "3"], "buffer of 3 tokens is too small"),
        (["--stream", "TEXT", "--layers", "1", "--seeds", "0,x"], "--seeds is '0,x'"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(
    folder: Path, tmp_path: Path, flags: list[str], says: str
) -> None:
    flags = [str(folder / "text.txt") if flag == "TEXT" else flag for flag in flags]
    with pytest.raises(InputError, match=says):
        run("train", *flags, "--model", str(folder / "model"), "--out", str(tmp_path / "sae"))
    assert not list(tmp_path.iterdir())


def torchrun(size: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TORCHRUN, str(size), "-m", "saefeat", "--dtype", "float32", "--device", "cpu", *arguments], cwd=ROOT,
        env=ALONE, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_torchrun_harvests_and_trains_and_the_result_is_printed_once(folder: Path, tmp_path: Path) -> None:
    text = ["--text", str(folder / "text.txt"), "--model", str(folder / "model"), "--layers", "1"]
    sizes = ["--context", "32", "--tokens", "3200", "--shard-contexts", "16"]
    done = torchrun(2, "harvest", *text, *sizes, "--out", str(tmp_path / "activations"), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["contexts"] == ActivationStore(tmp_path / "activations").n_contexts == 100
    done = torchrun(2, "train", str(tmp_path / "activations"), *SMALL, "--out", str(tmp_path / "sae"), "--json")
    assert done.returncode == 0, done.stderr
    assert 0 < json.loads(done.stdout)["quality"]["explained_variance"] < 1


def test_no_thread_of_the_group_outlives_it(tmp_path: Path) -> None:
    """One that does may abort the process at its end."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, pathlib, torch\n"
        "from saefeat.harvest import joined\n"
        "with joined() as ranks:\n"
        "    import transformers.integrations.tensor_parallel\n"
        "    import torch.distributed.nn.functional\n"
        "    ranks.add([torch.ones(9)])\n"
        "    ranks.wait()\n"
        "names = [p.read_text().strip() for p in pathlib.Path('/proc/self/task').glob('*/comm')]\n"
        f"pathlib.Path({str(tmp_path)!r}, os.environ['RANK']).write_text(' '.join(names))\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [*TORCHRUN, "2", str(script)], cwd=ROOT, env=ALONE, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr
    assert [rank for rank in "01" if "gloo" in (tmp_path / rank).read_text()] == []


def test_torchrun_tells_a_users_error_once(folder: Path, tmp_path: Path) -> None:
    done = torchrun(2, "train", *streaming(folder), "--layers", "1", "--batch", "255", "--out", str(tmp_path / "sae"))
    assert done.returncode != 0
    told = [line for line in done.stderr.splitlines() if line.startswith("saefeat:")]
    assert told == ["saefeat: a batch of 255 tokens cannot be shared equally by 2 processes; choose a multiple of 2"]
    assert not (tmp_path / "sae").exists()
