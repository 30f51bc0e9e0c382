"""`saefeat steer`: what it prints, and one clear line with exit code 2 for bad input; the self-test in `doctor`."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from saefeat.cli import cli
from saefeat.cli import doctor as doctor_module
from saefeat.cli.common import Settings, report_errors
from saefeat.subject import Subject

PROMPT = "The rent was due and"


@pytest.fixture
def run(tiny_root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("SAEFEAT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)

    def line(*arguments: object, stdin: bytes | None = None) -> tuple[int, str, str]:
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        where = ["--atlas", str(tiny_root / "indexes" / "tiny"), "--device", "cpu", "--dtype", "float32"]
        capsys.readouterr()
        code = 0
        try:
            with report_errors():
                cli.main([*where, *map(str, arguments)], standalone_mode=False, prog_name="saefeat")
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return line


def test_three_columns_and_their_figures(run) -> None:
    code, out, err = run("steer", "--prompt", PROMPT, "--emotion", "At-Ease=+0.5", "--tokens", 12, "--samples", 2)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("add at ease +0.5 × ")
    assert "after layer 1, all tokens" in lines[0]
    assert lines[2].split() == ["unsteered", "steered", "control:", "random", "0"]
    assert max(map(len, lines[:-1])) <= 100
    figures = [line.split() for line in lines if line.startswith(("unsteered ", "steered ", "control "))][1:]
    assert [row[0] for row in figures] == ["unsteered", "steered", "control"]
    assert figures[1][-1] in ("surgical", "repetitive", "broken")
    assert "No claim is made that a model feels anything" in lines[-1]


def test_json_holds_all_that_was_asked(run) -> None:
    code, out, _ = run(
        "steer", "--prompt", PROMPT, "--emotion", "joyful=+0.3", "--feature", "L1.5=-0.2", "--ablate", "furious",
        "--ablate", "7", "--clamp", "L1.6=0.1", "--cap", "desperate=0.05", "--positions", "generated",
        "--tokens", 5, "--samples", 2, "--seed", 3, "--json",
    )  # fmt: skip
    assert code == 0
    found = json.loads(out)
    told = [(one["action"], one["of"], one["strength"]) for one in found["interventions"]]
    assert told == [
        ("add", "joyful", 0.3), ("add", "L1.5", -0.2), ("ablate", "furious", None), ("ablate", "L1.7", None),
        ("clamp", "L1.6", 0.1), ("cap", "desperate", 0.05),
    ]  # fmt: skip
    assert {one["positions"] for one in found["interventions"]} == {"generated"}
    assert [len(found[kind]["texts"]) for kind in ("unsteered", "steered", "control")] == [2, 2, 2]
    assert found["seed"] == 3
    again = run("steer", "--prompt", PROMPT, "--emotion", "joyful=+0.3", "--seed", 3, "--tokens", 5, "--json")
    assert json.loads(again[1])["unsteered"]["texts"] == found["unsteered"]["texts"][:1]
    assert run("--seed", 3, "steer", "--prompt", PROMPT, "--emotion", "joyful=+0.3", "--tokens", 5, "--json") == again


def test_chats_stdin_layers_and_no_control(run) -> None:
    code, out, _ = run(
        "steer", "--chat", "--emotion", "joyful=0.3", "--layer", 0, "--layer", 1, "--no-control", "--tokens", 3,
        "--json",
        stdin=PROMPT.encode(),
    )  # fmt: skip
    assert code == 0
    found = json.loads(out)
    assert found["prompt"] == [{"role": "user", "content": PROMPT}]
    assert [one["layer"] for one in found["interventions"]] == [0, 1]
    assert found["control"] is None
    shown = run("steer", "--prompt", PROMPT, "--emotion", "joyful=0.3", "--no-control", "--tokens", 3)[1]
    assert "control" not in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to steer by"),
        (["--emotion", "joyful"], "not NAME=STRENGTH"),
        (["--emotion", "=0.2"], "not NAME=STRENGTH"),
        (["--emotion", "joyful=much"], "not NAME=STRENGTH"),
        (["--emotion", "joyful=nan"], "strength of joyful is nan"),
        (["--emotion", "joyful=99"], "within ±10"),
        (["--emotion", "joyfull=0.2"], "did you mean 'joyful'"),
        (["--feature", "L1.64=0.2"], "no feature L1.64"),
        (["--feature", "L9.1=0.2"], "unknown SAE 'L9'"),
        (["--ablate", "7", "--layer", "0"], "read at layer 1, not at layer 0"),
        (["--emotion", "joyful=0.2", "--layer", "12"], "no layer 12"),
        (["--emotion", "joyful=0.2", "--tokens", "0"], "--tokens"),
        (["--emotion", "joyful=0.2", "--tokens", "9999"], "exceed the 512"),
        (["--emotion", "joyful=0.2", "--temperature", "-1"], "--temperature"),
        (["--emotion", "joyful=0.2", "--positions", "some"], "--positions"),
        (["--emotion", "joyful=0.2", "--seed", "-1"], "--seed"),
    ],
)
def test_bad_input_is_one_line(run, arguments: list[str], words: str) -> None:
    code, out, err = run("steer", "--prompt", PROMPT, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("saefeat: ")
    assert err.count("\n") == 1
    assert words in err


def test_an_empty_prompt_is_refused(run) -> None:
    for arguments, stdin in ((["--prompt", " "], None), ([], b"")):
        code, out, err = run("steer", *arguments, "--emotion", "joyful=0.2", stdin=stdin)
        assert (code, out) == (2, "")
        assert "the text is empty" in err


# ---------------------------------------------------------------- doctor
def test_doctor_runs_the_selftest_on_the_default_model(tiny: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saefeat.subject.is_fetched", lambda _: False)
    assert doctor_module.steering(Settings()) == []
    monkeypatch.setattr("saefeat.subject.is_fetched", lambda _: True)
    monkeypatch.setattr("saefeat.subject.load_subject", lambda *_, **__: tiny)
    (finding,) = doctor_module.steering(Settings())
    assert finding.ok
    assert finding.found.startswith("passes: every generated token")


def test_doctor_says_when_the_selftest_fails(tiny: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    from saefeat.causal.steer import Steering

    monkeypatch.setattr("saefeat.subject.is_fetched", lambda _: True)
    monkeypatch.setattr("saefeat.subject.load_subject", lambda *_, **__: tiny)
    right = Steering._usable
    monkeypatch.setattr(Steering, "_usable", lambda s, n, x: right(s, n, x) & (x.shape[1] > 1))
    (finding,) = doctor_module.steering(Settings())
    assert not finding.ok
    assert "edited wrongly" in finding.found
