"""`saefeat corpus`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from saefeat.cli import cli
from saefeat.errors import InputError
from saefeat.files import shipped


def test_check_and_stats_of_the_shipped_corpus() -> None:
    checked = CliRunner().invoke(cli, ["corpus", "check", "stories", "--json"])
    assert checked.exit_code == 0
    assert json.loads(checked.stdout)["errors"] == 0
    stats = CliRunner().invoke(cli, ["corpus", "stats", "stories"])
    assert stats.exit_code == 0
    assert "2052" in stats.stdout


def test_a_leak_ends_with_2_and_names_the_story(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(shipped("corpora") / "stories", folder)
    path = folder / "t01_letter.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    story = json.loads(lines[0])
    lines[0] = json.dumps(story | {"text": story["text"] + f" So {story['emotion']}!"})
    path.write_text("\n".join(lines), encoding="utf-8")
    done = CliRunner().invoke(cli, ["corpus", "check", str(folder)])
    assert done.exit_code == 2
    assert f"error: leak: story 1 ({story['emotion']}, t01)" in done.stdout


def test_no_such_corpus_is_the_users_error() -> None:
    done = CliRunner().invoke(cli, ["corpus", "check", "nowhere"])
    with pytest.raises(InputError, match="nowhere: no such story corpus"):
        raise done.exception  # type: ignore[misc]
