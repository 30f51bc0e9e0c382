"""`saefeat harvest`: settings from flags over TOML over defaults, errors, and a run with the default model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from saefeat.cli import cli
from saefeat.cli.common import Settings
from saefeat.cli.harvest import settings_of
from saefeat.errors import InputError

TOML = """
text = ["a.txt"]
layers = [3]
tokens = 1000
[subject]
model = "from-toml"
dtype = "float32"
"""


def test_flags_go_over_toml_over_defaults(tmp_path: Path) -> None:
    path = tmp_path / "h.toml"
    path.write_text(TOML)
    subject, config = settings_of(Settings(seed=7), path, None, {"layers": "18,20", "tokens": None, "text": ()})
    assert (subject.model, subject.dtype, subject.device) == ("from-toml", "float32", "auto")
    assert (config.text, config.layers, config.tokens, config.context, config.seed) == (
        ("a.txt",),
        (18, 20),
        1000,
        256,
        7,
    )
    subject, config = settings_of(Settings(dtype="bfloat16"), path, "mine", {"text": ("b", "c")})
    assert (subject.model, subject.dtype, config.text) == ("mine", "bfloat16", ("b", "c"))


@pytest.mark.parametrize(
    ("toml", "layers", "message"),
    [
        ("tokns = 3", None, "unknown setting 'tokns'.*'tokens'"),
        ("tokens = 'x'", None, "type int was expected"),
        ("tokens =", None, "is not TOML"),
        ("subject = 3", None, "a table was expected"),
        ("", "18;20", "--layers is '18;20'"),
    ],
)
def test_bad_settings_are_the_users_error(tmp_path: Path, toml: str, layers: str | None, message: str) -> None:
    path = tmp_path / "h.toml"
    path.write_text(toml)
    with pytest.raises(InputError, match=message):
        settings_of(Settings(), path, None, {"layers": layers})


@pytest.mark.model
def test_the_default_model_harvests_and_the_second_run_does_nothing(tmp_path: Path) -> None:
    text = tmp_path / "a.jsonl"
    rows = ["The rent was due and the account was empty. " * 30, "She laughed until her sides hurt. " * 30]
    text.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    out = tmp_path / "out"
    arguments = ["-q", "harvest", "--text", str(text), "--layers", "2", "--tokens", "256", "--context", "64"]
    for _ in range(2):
        done = CliRunner().invoke(cli, [*arguments, "--out", str(out), "--json"], catch_exceptions=False)
        result = json.loads(done.stdout)
        assert (result["tokens"], result["contexts"], result["layers"]) == (256, 4, [2])
    stamp = (out / "manifest.json").stat().st_mtime_ns
    CliRunner().invoke(cli, [*arguments, "--out", str(out)], catch_exceptions=False)
    assert (out / "manifest.json").stat().st_mtime_ns == stamp
    with pytest.raises(InputError, match="tokens = 256, not 512"):
        CliRunner().invoke(cli, [*arguments, "--tokens", "512", "--out", str(out)], catch_exceptions=False)
