"""The wheel alone, in an empty environment, answers after a model fetch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_wheel_alone_answers_nearest_after_a_model_fetch(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)], check=True)
    [wheel] = tmp_path.glob("saefeat-*.whl")
    assert wheel.stat().st_size <= 40e6

    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    constraints = str(ROOT / "constraints.txt")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--constraint", constraints, str(wheel)], check=True)

    environment = {**os.environ, "SAEFEAT_HOME": str(tmp_path / "home")}
    environment.pop("PYTHONPATH", None)

    def saefeat(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(tmp_path / "venv" / "bin" / "saefeat"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)

    missing = saefeat("nearest", "The letter never came.")
    assert missing.returncode == 2
    assert "saefeat model fetch" in missing.stderr
    assert saefeat("model", "fetch", "smollm2-135m-instruct").returncode == 0
    done = saefeat("nearest", "The letter never came.", "--json", "--top", "3")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["emotions"]) == 3
