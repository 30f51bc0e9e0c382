"""`saefeat evaluate`: what is wrong ends it in one line before anything is measured; else a report, or JSON."""

import json
from pathlib import Path

import pytest

from saefeat.cli import cli
from saefeat.cli.common import report_errors
from tests.tiny_atlas import EMOTIONS

MAP = '[classes]\ngood = ["joyful", "at ease"]\nbad = ["desperate", "furious"]\n'


class Line:
    """Run `saefeat evaluate` in this process on the tiny atlas."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self.capsys = root, capsys

    def __call__(self, *arguments: object, stories: bool = True) -> tuple[int, str, str]:
        settings = ["--atlas", str(self.root / "indexes" / "tiny"), "--device", "cpu", "--dtype", "float32"]
        own = ["--stories", str(self.root / "stories")] if stories else []
        self.capsys.readouterr()
        code = 0
        try:
            with report_errors():
                every = [*settings, "evaluate", "--no-embeddings", *own, *map(str, arguments)]
                cli.main(every, standalone_mode=False, prog_name="saefeat")
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *self.capsys.readouterr()


@pytest.fixture
def run(tiny_root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Line:
    monkeypatch.chdir(tmp_path)
    rows = [{"text": f"{what}, {n}", "label": label} for n in range(3) for what, label in
            zip(EMOTIONS.values(), ("bad", "good", "good", "bad"), strict=True)]  # fmt: skip
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "a.toml").write_text(MAP, encoding="utf-8")
    return Line(tiny_root, capsys)


def test_it_explains_itself_with_a_map(run: Line) -> None:
    _, out, _ = run("--help")
    assert "[classes]" in out
    assert "saefeat evaluate --labelled mine.jsonl --map mine.toml" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--labelled", "a.jsonl"), "1 --labelled and 0 --map were given; give one --map for each"),
        (("--labelled", "a.jsonl", "--map", "a.toml", "--map", "a.toml"), "1 --labelled and 2 --map"),
        (("--labelled", "a.jsonl", "--map", "no.toml"), "no.toml: no such file"),
        (("--labelled", "no.jsonl", "--map", "a.toml"), "no.jsonl: no such file"),
        (("--labelled", "a.toml", "--map", "a.toml"), "a.toml line 1: is not a line"),
        (("--labelled", "a.jsonl", "--map", "a.toml", "--calibrate", "12"), "a.jsonl: --calibrate must lie between 1"),
        (("--labelled", "a.jsonl", "--map", "a.toml", "--background", "no.txt"), "no.txt: no such file"),
        (("--labelled", "a.jsonl", "--map", "a.toml", "--background", "empty.txt"), "empty.txt: holds no texts"),
        (("--calibrate", "4"), "are for --labelled files"),
        (("--calibrate", "0"), "--calibrate"),
        (("--train-topics", "t01,t02", "--test-topics", "t02,t03"), "topics t02 are both trained and tested on"),
        (("--train-topics", "t01,t02", "--test-topics", "t99"), "unknown topic 't99'"),
        (("--train-topics", "t01"), "at least two topics"),
        (("--test-topics", ""), "no topic is left"),
        (("--second", "nowhere"), "nowhere"),
        (("--out", "a.toml"), "a.toml"),
        (("--out", "a.toml/inside"), "a.toml"),
        (("--out", "/proc/none"), "/proc/none"),
        (("--keep", "a.toml"), "a.toml"),
    ],
)  # fmt: skip
def test_what_is_wrong_ends_it_before_anything_is_measured(
    run: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    monkeypatch.setattr("saefeat.subject.Subject.residuals", lambda *a, **k: pytest.fail("something was read"))
    code, out, err = run(*arguments)
    assert (code, out) == (2, ""), err
    assert err.startswith("saefeat: ")
    assert err.count("\n") == 1
    assert said in err


def test_an_atlas_of_other_stories_asks_for_its_own(run: Line) -> None:
    code, _, err = run(stories=False)  # the stories that ship have the same name as the tiny atlas's
    assert code == 2
    assert "not the stories the atlas was made with; pass theirs with --stories DIR" in err


def test_it_prints_json_and_writes_a_report(run: Line, tmp_path: Path) -> None:
    code, out, err = run("--labelled", "a.jsonl", "--map", "a.toml", "--keep", "kept", "--out", "report", "--json")
    assert code == 0, err
    results = json.loads(out)
    assert results == json.loads((tmp_path / "report" / "results.json").read_text(encoding="utf-8"))
    assert {"report.html", "report.md", "labelled.png"} <= {path.name for path in (tmp_path / "report").iterdir()}
    for part in ("--labelled a.jsonl --map a.toml", "--stories stories", "--train-topics t01,t02 --test-topics t03"):
        assert part in results["command"]
    assert str(tmp_path) not in out
    assert list((tmp_path / "kept").glob("*.safetensors"))
    code, out, err = run("--labelled", "a.jsonl", "--map", "a.toml", "--keep", "kept")
    assert code == 0, err
    assert out.startswith("Evaluation of tiny")
    assert "a.jsonl" in out
