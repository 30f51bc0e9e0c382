"""`saefeat demo` on the real default model: it ends, its pages are there, and a second run is quick."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.timeout(1800)
def test_the_demo_does_the_main_job_and_is_reused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "saefeat", "demo", "--out", str(tmp_path / "demo")]
    first = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert first.returncode == 0, first.stderr
    assert "Features that carry" in first.stdout
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert list((tmp_path / "demo" / "cards").glob("*.html"))

    begun = time.monotonic()
    second = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert second.returncode == 0, second.stderr
    assert time.monotonic() - begun < 120

    atlas = str(tmp_path / "demo" / "demo")
    ask = [sys.executable, "-m", "saefeat", "--atlas", atlas, "nearest", "The dog died this morning.", "--json"]
    answer = json.loads(subprocess.run(ask, capture_output=True, text=True, check=True).stdout)
    assert answer["emotions"][0]["score"] >= answer["emotions"][-1]["score"]

    quality = json.loads((tmp_path / "demo" / "sae" / "quality.json").read_text())["figures"]
    assert quality["explained_variance"] > 0.6
    assert 20 < quality["l0"] < 110
