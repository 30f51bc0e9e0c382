"""`saefeat study dose-response` from the command line to the report and to cards; one clear line for bad input."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saefeat.cli import cards
from saefeat.cli.common import Settings, report_errors
from saefeat.cli.study import command

MAP = """
[classes]
joy = ["joyful"]
anger = ["furious"]
[neutral]
labels = ["none"]
"""
ARMS = 2 + 2 + 1
"""Emotions, random directions, matched features."""


def embed(texts: Sequence[str], device: str = "cpu") -> np.ndarray:
    """Counts of letters: sentence embeddings that need no model."""
    return np.array([[text.count(c) + 0.01 for c in "abcdefghij"] for text in texts], np.float32)


@pytest.fixture(autouse=True)
def no_model_of_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saefeat.evaluate.sentence_embeddings", embed)
    monkeypatch.setattr("saefeat.evaluate.has_sentence_embeddings", lambda: True)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A labelled file, its map, openings."""
    rows = [{"text": word * n, "label": label} for label, word in (("joy", "ab"), ("anger", "cd"), ("none", "ef"))
            for n in range(1, 8)]  # fmt: skip
    told = {"labelled": tmp_path / "l.jsonl", "map": tmp_path / "m.toml", "prompts": tmp_path / "p.txt"}
    told["labelled"].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    told["map"].write_text(MAP, encoding="utf-8")
    told["prompts"].write_text("The rent was\nShe counted the coins\nThey walked\n", encoding="utf-8")
    return told


def run(root: Path, *arguments: object, group: Any = command, **given: Any) -> int:
    options = {"device": "cpu", "dtype": "float32", "quiet": True} | given
    settings = Settings(atlas=str(root / "indexes" / "tiny"), **options)
    try:
        with report_errors():
            group.main(list(map(str, arguments)), standalone_mode=False, obj=settings)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def arguments(files: dict[str, Path], out: Path) -> list[object]:
    given: list[object] = ["dose-response", "--out", out, "--tokens", 5, "--randoms", 2, "--matched", 1]
    given += ["--strengths", "-0.4,-0.2,0.2,0.4", "--emotions", "joyful,furious"]
    return given + [part for name, path in files.items() for part in (f"--{name}", path)]


# ---------------------------------------------------------------- from end to end
def test_a_study_is_estimated_run_reported_and_put_on_cards(
    tiny_root: Path, tmp_path: Path, files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    given = arguments(files, out)
    assert run(tiny_root, *given, "--dry-run", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["cells"], told["written"]) == (1 + 4 * ARMS, 1)
    assert told["seconds_left"] >= 0
    assert {path.name for path in out.iterdir()} == {".lock", "records.jsonl.gz"}

    assert run(tiny_root, *given) == 0
    assert capsys.readouterr().out.startswith("Dose and response of tiny")
    names = {path.name for path in out.iterdir() if not path.name.startswith(("readings-", "."))}
    assert names == {"records.jsonl.gz", "results.json", "report.md", "report.html", "causal.json", "dose-judge.png",
                     "dose-atlas.png", "effects.png"}  # fmt: skip
    with gzip.open(out / "records.jsonl.gz", "rt", encoding="utf-8") as file:
        head, *rows = map(json.loads, file)
    assert (head["format"], head["settings"]["tokens"], len(rows)) == ("dose-response", 5, 1 + 4 * ARMS)
    assert all(len(row["texts"]) == 3 for row in rows)
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert results["data"][0]["name"] == "l.jsonl"
    summary = next(s for s in results["sections"] if s["id"] == "dose-response")
    assert [(r["name"], r["values"][0]) for r in summary["rows"]] == [
        ("the independent judges", "2 of 2"), ("atlas", "2 of 2")
    ]  # fmt: skip
    for said in ("--strengths -0.4,-0.2,0.2,0.4", "--emotions joyful,furious", "--labelled l.jsonl --map m.toml"):
        assert said in results["command"]

    before = (out / "records.jsonl.gz").read_bytes()  # the same again, and more, from what is there
    assert run(tiny_root, *given, "--features", "best", "--json") == 0
    more = json.loads(capsys.readouterr().out)
    assert (out / "records.jsonl.gz").read_bytes().startswith(before)
    assert next(s for s in more["sections"] if s["id"] == "dose-response")["rows"][0]["values"][0] == "4 of 4"

    causal = json.loads((out / "causal.json").read_text(encoding="utf-8"))
    assert set(causal["emotions"]) == {"joyful", "furious"}
    (feature, *_) = causal["features"]
    made = tmp_path / "cards"
    asked = ("export", "--emotion", "joyful", "--emotion", "desperate", "--features", feature, "--out", made)
    for format in ("json", "md", "html"):
        assert run(tiny_root, *asked, "--format", format, "--causal", out / "causal.json", group=cards.command) == 0
    card = json.loads((made / "joyful.json").read_text(encoding="utf-8"))
    assert card["causal"]["responses"] == causal["emotions"]["joyful"]["responses"]
    assert len(card["causal"]["responses"][0]["curve"]) == 5
    assert card["causal"]["words_up"]
    assert "causal" not in json.loads((made / "desperate.json").read_text(encoding="utf-8"))
    own = json.loads((made / f"{feature}.json").read_text(encoding="utf-8"))
    assert own["causal"]["emotion"] in ("joyful", "furious")
    assert "words_up" not in own["causal"]  # the card has them already
    for name in ("joyful", feature):
        assert "What turning it does" in (made / f"{name}.html").read_text(encoding="utf-8")
        assert "## What turning it does" in (made / f"{name}.md").read_text(encoding="utf-8")
    assert "What turning it does" not in (made / "desperate.html").read_text(encoding="utf-8")


def test_without_a_judge_and_with_a_second_atlas(
    tiny_root: Path, tmp_path: Path, files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["dose-response", "--emotions", 2, "--strengths", "-0.3,0.3", "--tokens", 3, "--randoms", 1, "--matched", 0]
    given += ["--prompts", files["prompts"], "--second", tiny_root / "indexes" / "tiny", "--out", tmp_path / "out"]
    assert run(tiny_root, *given, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert {s["id"] for s in told["sections"]} == {
        "dose-response", "by-atlas", "by-atlas-tiny", "specificity", "effects", "controls", "regimes"
    }  # fmt: skip
    assert "data" not in told or told["data"] == []


# ---------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("given", "what"),
    [
        (("--emotions", "desparate"), "unknown emotion 'desparate'"),
        (("--emotions", ","), "names nothing"),
        (("--emotions", "0"), "no emotion to turn"),
        (("--strengths", "big"), "is no strength"),
        (("--strengths", "0.1"), "needs two strengths"),
        (("--strengths", "0.1,12"), "is no strength"),
        (("--features", "L9.1"), "unknown SAE"),
        (("--features", "L1.999"), "there is no feature"),
        (("--labelled", "x.jsonl"), "2 --labelled and 1 --map"),
        (("--prompts", "/no/such/file.txt"), "no such file"),
        (("--second", "no-such-atlas"), "no-such-atlas"),
        (("--tokens", "0"), "0 is not in the range"),
        (("--tokens", "100000"), "exceed the 512 of"),
        (("--out", "/dev/null/x"), "cannot be made a folder"),
    ],
)
def test_bad_input_is_one_clear_line(
    given: Sequence[str],
    what: str,
    tiny_root: Path,
    tmp_path: Path,
    files: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(tiny_root, *arguments(files, tmp_path / "out"), *given) == 2
    told = capsys.readouterr().err.strip()
    assert what in told
    assert "\n" not in told
    assert not (tmp_path / "out" / "report.md").exists()


def test_files_that_make_no_judge_are_said_before_anything_is_written(
    tiny_root: Path, tmp_path: Path, files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    files["labelled"].write_text("{", encoding="utf-8")
    assert run(tiny_root, *arguments(files, out)) == 2
    assert "l.jsonl line 1" in capsys.readouterr().err
    files["labelled"].write_text('{"text": "a", "label": "joy"}\n', encoding="utf-8")
    assert run(tiny_root, *arguments(files, out)) == 2
    assert "needs two classes of at least 5 texts" in capsys.readouterr().err
    assert not (out / "records.jsonl.gz").exists()


def test_without_sentence_embeddings_there_is_no_judge(
    tiny_root: Path,
    tmp_path: Path,
    files: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("saefeat.evaluate.has_sentence_embeddings", lambda: False)
    assert run(tiny_root, *arguments(files, tmp_path / "out")) == 2
    assert "a judge needs sentence embeddings" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"format": "card"}, "is not the manifest of a causal"),
        ({"format_version": 9}, "reads up to 1"),
        ({"atlas": "another"}, "is of the atlas 'another'"),
        ({"model": {"architecture": "x", "weights": "y"}}, "other weights"),
        ({"emotions": {"joyful": {}}}, "tells too little of 'joyful'"),
        ({"features": None}, "is incomplete"),
    ],
)
def test_evidence_that_is_not_of_this_atlas_is_refused(
    change: dict[str, Any], what: str, tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads((tiny_root / "indexes" / "tiny" / "atlas.json").read_text(encoding="utf-8"))
    whole = {"format": "causal", "format_version": 1, "atlas": "tiny", "model": manifest["subject"], "emotions": {},
             "features": {}, "texts": 3, "prompts": 3, "tokens": 5, "layer": 1}  # fmt: skip
    path = tmp_path / "causal.json"
    given = ("export", "--emotion", "joyful", "--out", tmp_path / "cards", "--causal", path)
    assert run(tiny_root, *given, group=cards.command) == 2
    assert "no such file" in capsys.readouterr().err
    path.write_text(json.dumps(whole | change), encoding="utf-8")
    assert run(tiny_root, *given, group=cards.command) == 2
    assert what in capsys.readouterr().err
    assert not (tmp_path / "cards").exists()
    path.write_text(json.dumps(whole), encoding="utf-8")
    assert run(tiny_root, *given, group=cards.command) == 0
