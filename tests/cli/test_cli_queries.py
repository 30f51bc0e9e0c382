"""The verbs that query an atlas: what they print, and one clear line with exit code 2 for bad input."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from saefeat.atlas import Atlas
from saefeat.cli import cli
from saefeat.cli.common import report_errors

TEXT = "The rent was due and nobody would answer."


class Done(NamedTuple):
    code: int
    out: str
    err: str


class Line:
    """Run the command line in this process, in float32 on the CPU, with the tiny atlas unless told otherwise."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.atlas, self.capsys, self.monkeypatch = root / "indexes" / "tiny", capsys, monkeypatch

    def __call__(self, *arguments: object, stdin: bytes | None = None, atlas: object = None) -> Done:
        if stdin is not None:
            self.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        settings = ["--atlas", str(atlas or self.atlas), "--device", "cpu", "--dtype", "float32"]
        self.capsys.readouterr()
        code = 0
        try:
            with report_errors():
                done = cli.main([*settings, *map(str, arguments)], standalone_mode=False, prog_name="saefeat")
                code = done if isinstance(done, int) else 0
        except SystemExit as end:
            code = int(end.code or 0)
        return Done(code, *self.capsys.readouterr())


@pytest.fixture
def run(tiny_root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Line:
    monkeypatch.setenv("SAEFEAT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return Line(tiny_root, capsys, monkeypatch)


def fails(done: Done, *words: str) -> None:
    """One line on stderr that says the words, nothing on stdout, exit code 2."""
    assert done.code == 2, done
    assert done.out == ""
    assert done.err.startswith("saefeat: ")
    assert done.err.count("\n") == 1
    for word in words:
        assert word in done.err, done.err


# ---------------------------------------------------------------- nearest
def test_nearest_prints_the_object_of_the_atlas(run: Line, tiny_atlas: Atlas) -> None:
    done = run("nearest", TEXT, "--json", "--top", "all", "--features", "3", "--tokens")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == next(tiny_atlas.nearest([TEXT], top=None, features=3, tokens=True))


def test_nearest_prints_a_table_for_people(run: Line) -> None:
    done = run("nearest", TEXT, "--top", "2", "--tokens", "--readout", "story")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].startswith("readout story")
    assert lines[1].split() == ["score", "emotion", "family"]
    assert "█" in lines[3]
    assert "contribution" in done.out
    assert "nobody"[-3:] in done.out
    assert max(map(len, lines)) <= 120


def test_nearest_reads_stdin(run: Line) -> None:
    same = run("nearest", TEXT, "--json").out
    assert run("nearest", "--json", stdin=TEXT.encode()).out == same
    assert run("nearest", "-", "--json", stdin=TEXT.encode()).out == same
    several = run("nearest", "--input", "-", "--json", stdin=b"one text\nanother\n").out.splitlines()
    assert [json.loads(line)["id"] for line in several] == ["1", "2"]


def test_nearest_writes_a_file_whole_or_not_at_all(run: Line, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"id": "x", "text": "the rain"}\n{bad\n{"text": "the dog"}\n', encoding="utf-8")
    fails(run("nearest", "--input", source, "--output", output), "in.jsonl line 2", "not JSON", "--keep-going")
    assert not output.exists()
    done = run("nearest", "--input", source, "--output", output, "--keep-going")
    assert (done.code, done.out) == (0, "")
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == ["x", "2", "3"]
    assert set(rows[1]) == {"id", "error"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_bad_texts_and_options_of_nearest(run: Line, tmp_path: Path) -> None:
    fails(run("nearest", ""), "the text is empty")
    fails(run("nearest", " \n "), "the text is empty")
    fails(run("nearest", stdin=b""), "the text is empty")
    fails(run("nearest", stdin=b"\xff\xfe\x00"), "UTF-8")
    fails(run("nearest", TEXT, "--top", "0"), "--top is 0", "at least 1")
    fails(run("nearest", TEXT, "--top", "few"), "--top is few")
    fails(run("nearest", TEXT, "--features", "-1"), "--features is -1")
    fails(run("nearest", TEXT, "--readout", "felf"), "did you mean 'felt'")
    fails(run("nearest", TEXT, "--input", "x.txt"), "both a text and --input")
    fails(run("nearest", "--input", tmp_path / "none.txt"), "none.txt", "No such file")
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)))
    fails(run("nearest", "--input", tmp_path / "binary.txt"), "binary.txt line 2", "UTF-8")
    (tmp_path / "good.txt").write_text("fine\n")
    fails(run("nearest", "--input", tmp_path / "good.txt", "--output", "/proc/none/x"), "cannot write here")


def test_bad_atlases(run: Line, tiny_root: Path, tmp_path: Path) -> None:
    fails(run("nearest", TEXT, atlas="nowhere"), "unknown atlas 'nowhere'", "saefeat atlas list")
    fails(run("nearest", TEXT, atlas=tmp_path), "is not an atlas")
    copy = Path(shutil.copytree(tiny_root / "indexes" / "tiny", tmp_path / "copy"))
    (copy / "prototypes.safetensors").write_bytes(b"nothing")
    fails(run("nearest", TEXT, atlas=copy), "prototypes.safetensors", "corrupt")
    manifest = json.loads((copy / "atlas.json").read_text())
    (copy / "atlas.json").write_text(json.dumps({**manifest, "format_version": 9}))
    fails(run("nearest", TEXT, atlas=copy), "format 9", "upgrade saefeat")
    weights = {**manifest["subject"], "weights": "0" * 16}
    (copy / "atlas.json").write_text(json.dumps({**manifest, "subject": weights}))
    fails(run("nearest", TEXT, atlas=copy), "made with another model", "--allow-other-weights")
    gone = {**manifest["subject"], "name": "no-such-model"}
    (copy / "atlas.json").write_text(json.dumps({**manifest, "subject": gone}))
    fails(run("nearest", TEXT, atlas=copy), "no-such-model")


# ---------------------------------------------------------------- the others
def test_similar(run: Line, tiny_atlas: Atlas) -> None:
    assert json.loads(run("similar", TEXT, "--json").out) == tiny_atlas.similar(TEXT)
    assert len(run("similar", TEXT, "--top", "3").out.splitlines()) == 5
    assert len(json.loads(run("similar", TEXT, "--top", "all", "--json").out)["stories"]) == tiny_atlas.n_stories
    fails(run("similar", ""), "empty")


def test_features(run: Line, tiny_atlas: Atlas) -> None:
    done = run("features", "--emotion", "at-ease", "--top", "3", "--json")
    assert json.loads(done.out) == {"features": tiny_atlas.features("at ease", top=3)}
    assert "AUROC" in run("features", "--emotion", "at-ease").out
    fails(run("features", "--emotion", "desprate"), "unknown emotion 'desprate'", "did you mean 'desperate'")
    fails(run("features"), "--emotion", "see saefeat features --help")
    fails(run("features", "--emotion", "joyful", "--top", "0"), "--top is 0")


def test_feature(run: Line, tiny_atlas: Atlas) -> None:
    name = tiny_atlas.features("joyful")[0]["feature"]
    assert json.loads(run("feature", name, "--json").out) == tiny_atlas.feature(name)
    out = run("feature", name).out
    assert "promotes: " in out
    assert "**" in out
    fails(run("feature", "L1.64"), "no feature L1.64", "0 to 63")
    fails(run("feature", "one"), "'one' is not a feature's name")
    fails(run("feature", "L20.3"), "unknown SAE 'L20'")


def test_emotions(run: Line, tiny_atlas: Atlas) -> None:
    assert json.loads(run("emotions", "--json").out) == {"emotions": tiny_atlas.emotions()}
    assert json.loads(run("emotions", "furious", "--json").out) == tiny_atlas.emotions("furious")
    assert "at ease" in run("emotions").out
    assert "nearest: " in run("emotions", "at-ease").out
    fails(run("emotions", "joyfull"), "did you mean 'joyful'")


def test_encode(run: Line, tiny_atlas: Atlas, tmp_path: Path) -> None:
    import h5py

    source = tmp_path / "in.txt"
    source.write_text("the rain\nthe old dog slept\n", encoding="utf-8")
    lines = [json.loads(line) for line in run("encode", "--input", source).out.splitlines()]
    assert lines == list(tiny_atlas.encode(["the rain", "the old dog slept"]))
    assert run("encode", "--input", source, "--output", tmp_path / "out.h5").code == 0
    with h5py.File(tmp_path / "out.h5") as file:
        assert tuple(file.attrs["shape"]) == (2, 64)
        for n, line in enumerate(lines):
            part = slice(file["indptr"][n], file["indptr"][n + 1])
            names = [f"L1.{i}" for i in file["indices"][part]]
            assert dict(zip(names, file["data"][part], strict=True)) == pytest.approx(line["features"], abs=1e-6)
        assert file["ids"].asstr()[:].tolist() == ["1", "2"]
    assert run("encode", "--input", source, "--output", tmp_path / "out.jsonl").code == 0
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8").count("\n") == 2
    fails(run("encode", "--input", source, "--output", tmp_path / "out.csv"), "neither .jsonl nor .h5")
    fails(run("encode", "--input", source, "--readout", "stry"), "did you mean 'story'")


def test_index_then_atlas_verbs(run: Line, tiny_root: Path, tmp_path: Path) -> None:
    made = tmp_path / "home" / "indexes" / "mine"
    done = run("index", "--labels", tiny_root / "labels", "--sae", tiny_root / "sae", "--name", "mine", "--json")
    assert json.loads(done.out)["atlas"] == str(made), done.err
    rows = {row["name"]: row for row in json.loads(run("atlas", "list", "--json").out)["atlases"]}
    assert rows["mine"]["place"] == "home"
    assert "mine" in run("atlas", "list").out
    assert "No claim" in run("atlas", "show", "mine").out
    assert json.loads(run("atlas", "show", "mine", "--json").out)["format"] == "atlas"
    assert "whole" in run("atlas", "verify", "mine").out
    assert run("atlas", "pack", "mine", "--out", tmp_path / "mine.tar.gz").code == 0
    fails(run("atlas", "unpack", tmp_path / "mine.tar.gz"), "is there already")
    (made / "examples.h5").unlink()
    fails(run("atlas", "verify", "mine"), "examples.h5 is missing")
    report = run("atlas", "verify", "mine", "--json")
    assert (report.code, json.loads(report.out)["problems"]) == (2, ["examples.h5 is missing"])
    shutil.rmtree(made)
    assert run("atlas", "unpack", tmp_path / "mine.tar.gz").code == 0
    assert "whole" in run("atlas", "verify", "mine").out
    fails(run("index", "--labels", tiny_root / "labels", "--sae", tiny_root / "sae"), "--out DIR or --name NAME")
    fails(run("index", "--labels", tmp_path, "--sae", tiny_root / "sae", "--out", tmp_path / "x"), "no labels here")
    fails(run("atlas", "show", "mime"), "did you mean 'mine'")


def test_nearest_needs_none_of_the_training_stack(tiny_root: Path) -> None:
    """In a process where importing them fails: the one that answers queries has no use for them."""
    code = (
        "import sys\n"
        "for name in ('sae_lens', 'wandb', 'transformer_lens', 'sentence_transformers', 'datasets', 'matplotlib'):\n"
        "    sys.modules[name] = None\n"
        "from saefeat.cli import main\n"
        "main()\n"
    )
    arguments = ["--atlas", str(tiny_root / "indexes" / "tiny"), "nearest", TEXT, "--json", "--tokens"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["emotions"]
    assert done.stderr == ""
