"""The script for GPUs, run on the CPU: every check and every measurement in it works."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "docs" / "gpu" / "smoke.py"


@pytest.mark.slow
@pytest.mark.model
def test_the_gpu_script_checks_and_measures() -> None:
    sizes = ["--tokens", "4096", "--batch", "256", "--widths", "2048"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--device", "cpu", "--json", *sizes], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["failed"] == []
    assert told["checks"]["residuals_differ"] < 1e-5
    assert told["checks"]["step_differs"] < 1e-5
    assert told["harvest"]["vs_bare"] > 0
    assert set(told["train_2048"]) >= {"tok_s", "vs_neighbours", "vs_dense_twin", "matmul_tflop_s"}
