"""`saefeat index add`, `info`, `build`, `saefeat similar --in`: what they print; one clear line for bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from saefeat.atlas import Atlas
from tests.cli.test_cli_queries import TEXT, Line, fails, run
from tests.tiny_atlas import EMOTIONS

__all__ = ["run"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rows = [
        {"id": f"{emotion}{n}", "text": f"{what}. {'It went on. ' * n}", "lang": "en" if n else "de", "n": n}
        for emotion, what in EMOTIONS.items()
        for n in range(3)
    ]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_texts_are_added_and_found(run: Line, tiny_atlas: Atlas, source: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    done = run("index", "add", source, "--to", index, "--json")
    told = json.loads(done.out)
    assert (told["added"], told["skipped"], told["rows"], told["search"]) == (12, 0, 12, None)
    again = run("index", "add", source, "--to", index)
    assert "12 texts, 0 of them new; 12 in already" in again.out
    assert f"saefeat similar TEXT --in {index}" in again.out
    found = json.loads(run("similar", TEXT, "--in", index, "--json").out)
    assert found == tiny_atlas.similar(TEXT, within=index)
    assert len(found["texts"]) == 5
    lines = run("similar", TEXT, "--in", index, "--top", "3").out.splitlines()
    assert lines[0].split() == ["similarity", "id", "emotions", "text"]
    assert len(lines) == 5
    rows = json.loads(run("similar", TEXT, "--in", index, "--where", "lang=de", "--where", "n=0", "--json").out)[
        "texts"
    ]
    assert sorted(row["id"] for row in rows) == sorted(f"{emotion}0" for emotion in EMOTIONS)
    none = run("similar", TEXT, "--in", index, "--emotion", "joyful>99", "--json")
    assert (none.code, json.loads(none.out)["texts"]) == (0, [])
    assert len(run("similar", TEXT, "--in", index, "--emotion", "joyful>99").out.splitlines()) == 2


def test_stdin_and_the_default_place(run: Line, tmp_path: Path) -> None:
    told = json.loads(run("index", "add", "--json", stdin=b"the rain\nthe old dog\n").out)
    assert told["directory"] == str(tmp_path / "home" / "texts" / "tiny")
    assert told["added"] == 2
    dashed = json.loads(run("index", "add", "-", "--json", stdin=b'{"id": "a", "text": "the rain"}\n').out)
    assert (dashed["added"], dashed["rows"]) == (1, 3)


def test_info_and_build(run: Line, source: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    run("index", "add", source, "--to", index, "--readout", "felt")
    told = json.loads(run("index", "info", index, "--json").out)
    assert (told["rows"], told["readout"], told["emotions"], told["search"]) == (12, "felt", 4, None)
    assert "12 texts" in run("index", "info", index).out
    assert run("index", "build", index).out == "search is exact\n"
    with (index / "profiles.f32").open("r+b") as file:
        file.write(b"\xff")
    fails(run("index", "info", index), "profiles.f32", "checksum")
    fails(run("similar", TEXT, "--in", index), "profiles.f32", "checksum")
    fails(run("index", "add", source, "--to", index), "profiles.f32", "checksum")


def test_profiles_and_features(run: Line, tiny_atlas: Atlas, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"joyful": 2, "at-ease": 1}')
    by_profile = json.loads(run("similar", "--profile", tmp_path / "p.json", "--json").out)
    assert by_profile == tiny_atlas.similar(profile={"joyful": 2, "at ease": 1})
    (tmp_path / "n.json").write_text(run("nearest", TEXT, "--top", "all", "--readout", "story", "--json").out)
    told = json.loads(run("similar", "--profile", tmp_path / "n.json", "--json").out)
    assert told["stories"] == tiny_atlas.similar(TEXT, readout="story")["stories"]
    by_features = json.loads(run("similar", "--features", "L1.3=0.5, 7=1", "--json").out)
    assert by_features == tiny_atlas.similar(features={"L1.3": 0.5, "L1.7": 1})
    stories = json.loads(run("similar", TEXT, "--where", "emotion=at-ease", "--top", "all", "--json").out)["stories"]
    assert [story["emotion"] for story in stories] == ["at ease"] * 6


def test_bad_input(run: Line, source: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    (tmp_path / "bad.jsonl").write_text('{"text": "the rain"}\n{bad\n')
    fails(run("index", "add", tmp_path / "bad.jsonl", "--to", index), "bad.jsonl line 2", "not JSON")
    assert not index.exists()
    fails(run("index", "add", tmp_path / "none.txt", "--to", index), "none.txt", "no such file")
    fails(run("index", "add", tmp_path, "--to", index), "is a directory")
    fails(run("index", "add", source, "--to", source), "is a file")
    fails(run("index", "add", source, "--to", tmp_path), "is no index of texts")
    fails(run("index", "add", source, "--to", index, "--readout", "stry"), "did you mean 'story'")
    fails(run("index", "add", stdin=b""), "no texts")
    fails(run("index", "info", index), "no index of texts here")
    fails(run("index", "build", index), "no index of texts here")
    fails(run("index"), "Missing option '--labels'", "see saefeat index --help")
    fails(run("index", "--labels", tmp_path), "Missing option '--sae'")
    fails(run("index", "--name", "x", "add", source), "the options belong after add")
    fails(run("index", "ad"), "No such command 'ad'")
    assert run("index", "add", source, "--to", index).code == 0
    fails(run("similar", TEXT, "--in", tmp_path / "nowhere"), "no index of texts here")
    fails(run("similar", TEXT, "--in", index, "--where", "lang"), "write it like lang=en")
    fails(run("similar", TEXT, "--in", index, "--emotion", "joyfull>2"), "did you mean 'joyful'")
    fails(run("similar", TEXT, "--in", index, "--emotion", "joyful"), "write it like 'joyful>2'")
    fails(run("similar", TEXT, "--in", index, "--readout", "felt"), "by the readout story, not felt")
    fails(run("similar", TEXT, "--emotion", "joyful>2"), "not its scores")
    fails(run("similar", TEXT, "--where", "lang=de"), "unknown field of a story")
    fails(run("similar", TEXT, "--features", "L1.3=1"), "more than one of a text")
    for bad in ("L1.3", "L1.3=x", "L1.3=1,", "", "L1.3=1,L1.3=2"):
        fails(run("similar", "--features", bad), "L1.3" if "L1.3=1,L" in bad else "feature")
    fails(run("similar", "--features", "L1.64=1"), "no feature L1.64")
    fails(run("similar", "--features", "L1.3=nan"), "not a number")
    fails(run("similar", "--profile", tmp_path / "none.json"), "none.json", "No such file")
    for number, (bad, word) in enumerate(
        {"{bad": "not JSON", "[1]": "no profile", "{}": "no profile", '{"joyful": "x"}': "not a number"}.items()
    ):
        path = tmp_path / f"{number}.json"
        path.write_text(bad)
        fails(run("similar", "--profile", path), word)
