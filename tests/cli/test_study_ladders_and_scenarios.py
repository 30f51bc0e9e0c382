"""`study ladders` and `study scenarios`: a report in a folder, and one clear line for bad input."""

import json
from pathlib import Path
from typing import Any

import click
import pytest

from saefeat.cli import study_ladders, study_scenarios
from saefeat.cli.common import Settings, report_errors
from saefeat.cli.studying import embedding_scorer

LADDERS = [
    {"id": f"l{i}", "template": "The rent is {x} due.", "values": [1, 2, 3], "rises": ["desperate"],
     "falls": ["at ease"]}
    for i in (1, 2)
]  # fmt: skip
MESSAGES = [
    {"id": f"s{i}", "text": "We danced and sang.", "expected": ["joyful"], "reply_expected": ["at ease"]}
    for i in (1, 2)
]
DIALOGUES = [{"id": "d1", "messages": [{"role": "user", "content": "A lie!"}], "arc": [["furious"]]}]


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(command: click.Command, root: Path, *arguments: object) -> int:
    settings = Settings(atlas=str(root / "indexes" / "tiny"), device="cpu", dtype="float32", quiet=True)
    try:
        with report_errors():
            command.main(list(map(str, arguments)), standalone_mode=False, obj=settings)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_ladders(tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = lines(tmp_path / "l.jsonl", LADDERS), tmp_path / "out"
    given = ("--ladders", source, "--no-embeddings")
    assert run(study_ladders.command, tiny_root, *given, "--out", out) == 0
    assert "Ladders of tiny" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"results.json", "report.md", "report.html", "ladders.png"}
    assert (out / "report.md").read_text(encoding="utf-8").startswith("# Ladders of tiny")
    assert "<title>Ladders" in (out / "report.html").read_text(encoding="utf-8")
    assert run(study_ladders.command, tiny_root, *given, "--ids", "odd", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [s["id"] for s in told["sections"]] == ["ladders-odd", "ladder-by-ladder"]
    assert told["command"].endswith("study ladders --ids odd --ladders l.jsonl --no-embeddings")


def test_scenarios(tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--messages", lines(tmp_path / "s.jsonl", MESSAGES), "--dialogues", lines(tmp_path / "d.jsonl", DIALOGUES))
    given = (*given, "--no-embeddings", "--tokens", 4)
    assert run(study_scenarios.command, tiny_root, *given, "--out", tmp_path / "out") == 0
    assert "Scenarios of tiny" in capsys.readouterr().out
    told = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert {"message-writer", "message-generated-reply", "dialogue-user", "replies"} <= {
        s["id"] for s in told["sections"]
    }
    assert (tmp_path / "out" / "scenarios.png").is_file()
    assert run(study_scenarios.command, tiny_root, *given, "--no-replies", "--json") == 0
    assert "replies" not in {s["id"] for s in json.loads(capsys.readouterr().out)["sections"]}


def test_bad_input_is_one_line(tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{", encoding="utf-8")
    for command, option in ((study_ladders.command, "--ladders"), (study_scenarios.command, "--messages"),
                            (study_scenarios.command, "--dialogues")):  # fmt: skip
        for path, words in ((bad, "line 1"), (tmp_path / "none", "no such file")):
            assert run(command, tiny_root, option, path, "--out", tmp_path / "out") == 2
            err = capsys.readouterr().err
            assert err.count("\n") == 1
            assert words in err
    source = lines(tmp_path / "l.jsonl", LADDERS)
    assert run(study_ladders.command, tiny_root, "--ladders", source, "--ids", "some") == 2
    assert run(study_ladders.command, tiny_root, "--ladders", source, "--out", bad) == 2
    assert not (tmp_path / "out").exists()


def test_sentence_embeddings_are_fitted_on_the_corpora_of_the_atlas(
    tiny_atlas: Any, tiny_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    def embed(texts: list[str], device: str) -> np.ndarray:
        return np.array([[len(text), text.count("e"), text.count("a"), text.count(" ")] for text in texts], np.float32)

    monkeypatch.setattr("saefeat.evaluate.sentence_embeddings", embed)
    monkeypatch.setattr("saefeat.evaluate.has_sentence_embeddings", lambda: True)
    assert embedding_scorer(tiny_atlas) is None  # the stories that ship are not its own
    scorer = embedding_scorer(tiny_atlas, str(tiny_root / "stories"))
    assert scorer is not None
    assert scorer(["The rent was due.", "We danced."]).shape == (2, 4)
    monkeypatch.setattr("saefeat.evaluate.has_sentence_embeddings", lambda: False)
    assert embedding_scorer(tiny_atlas) is None
