"""`saefeat model` lists, shows and refuses clearly."""

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
from saefeat.subject import Subject


def test_list_names_every_recipe() -> None:
    result = CliRunner().invoke(cli, ["model", "list", "--json"], catch_exceptions=False)
    models = {model["name"]: model for model in json.loads(result.stdout)["models"]}
    assert set(models) == {"smollm2-135m-instruct", "gemma-3-270m", "qwen2.5-coder-1.5b-instruct"}
    assert models["gemma-3-270m"]["license"] == "Gemma Terms of Use"


def test_show_gives_dimensions_and_hook_points(tiny: Subject, tmp_path: Path) -> None:
    tiny.model.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    result = CliRunner().invoke(cli, ["--dtype", "float32", "model", "show", str(tmp_path), "--json"])
    facts = json.loads(result.stdout)
    assert (facts["layers"], facts["d_model"], facts["dtype"]) == (3, 32, "float32")
    assert facts["hook_points"] == "model.layers.0 … model.layers.2"
    text = CliRunner().invoke(cli, ["model", "show", str(tmp_path)]).stdout
    assert "hook points    model.layers.0" in text


def test_a_missing_model_ends_with_one_line_and_code_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "saefeat", "model", "show", "smollm2-135m-instruct"]
    environment = {**os.environ, "SAEFEAT_HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "saefeat model fetch smollm2-135m-instruct" in done.stderr


def test_terms_are_shown_before_anything_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAEFEAT_HOME", str(tmp_path))
    result = CliRunner().invoke(cli, ["model", "fetch", "gemma-3-270m"])
    assert isinstance(result.exception, InputError)
    assert "Gemma Terms of Use" in str(result.exception)
    assert "--accept-license" in str(result.exception)
    assert not list(tmp_path.iterdir())
