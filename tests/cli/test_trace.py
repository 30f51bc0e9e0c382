"""`saefeat trace`: tables, JSON lines, figures, alerts by exit code, and one clear line for bad input."""

# ruff: noqa: F811  `run` is a fixture

import json
import subprocess
import sys
from pathlib import Path

import pytest

from saefeat.atlas import Atlas
from saefeat.trace import trace
from tests.cli.test_cli_queries import Line, fails, run  # noqa: F401

TALK = [
    {"role": "user", "content": "The rent was due and nobody would answer the phone."},
    {"role": "assistant", "content": "Count the coins again, slowly."},
    {"role": "user", "content": "We danced in the garden and laughed."},
]


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    path = tmp_path / "talk.json"
    path.write_text(json.dumps({"id": "t", "messages": TALK}, indent=1), encoding="utf-8")
    return path


def test_json_is_the_trace(run: Line, talk: Path, tiny_atlas: Atlas) -> None:
    done = run("trace", talk, "--json", "--top", "2")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == {"id": "t", **trace(tiny_atlas, TALK).to_dict(2), "alerts": []}
    done = run("trace", "-", "--json", "--emotions", "At-Ease,joyful", "--tokens", stdin=talk.read_bytes())
    want = trace(tiny_atlas, TALK, emotions=["at ease", "joyful"], tokens=True).to_dict()
    assert json.loads(done.out) == {"id": "t", **want, "alerts": []}


def test_a_table_for_people(run: Line, talk: Path) -> None:
    done = run("trace", talk, "--emotions", "desperate", "--tokens")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].startswith("t: 3 turns")
    assert lines[1].split()[:3] == ["turn", "role", "text"]
    assert sum("assistant" in line for line in lines[3:6]) == 1
    assert any(set("▁▂▃▄▅▆▇█") & set(line) for line in lines)
    assert "turn 3 (user), desperate by token:" in done.out
    assert max(len(line) for line in lines if "by token" not in line and "[" not in line) <= 130


def test_many_conversations_stream_one_line_each(run: Line, tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"
    rows = [{"id": "a", "messages": TALK}, "{bad", {"messages": TALK[:1]}]
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows), encoding="utf-8")
    done = run("trace", path, "--json")
    assert done.code == 2
    assert "many.jsonl line 2" in done.err
    assert len(done.out.splitlines()) == 1  # what came before stands
    done = run("trace", path, "--json", "--keep-going")
    assert done.code == 0
    told = [json.loads(line) for line in done.out.splitlines()]
    assert [row["id"] for row in told] == ["a", "2", "3"]
    assert set(told[1]) == {"id", "error"}
    assert "error" in run("trace", path, "--keep-going").out


def test_alerts_end_with_three_after_the_whole_output(run: Line, talk: Path) -> None:
    done = run("trace", talk, "--json", "--alert", "desperate>-1000", "--alert", "joyful>1000")
    assert done.code == 3
    told = json.loads(done.out)
    assert len(told["turns"]) == 3
    assert {hit["alert"] for hit in told["alerts"]} == {"desperate>-1000"}
    assert len(done.err.splitlines()) == len(told["alerts"]) == 5  # three turns, two reply starts
    assert "turn 1 (user)" in done.err
    assert run("trace", talk, "--alert", "desperate>1000").code == 0
    user = run("trace", talk, "--json", "--alert", "at-ease<1000", "--alert-role", "user")
    assert [hit["role"] for hit in json.loads(user.out)["alerts"]] == ["user", "user"]


def test_figures(run: Line, talk: Path, tmp_path: Path) -> None:
    assert run("trace", talk, "--plot", tmp_path / "new" / "talk.png").code == 0
    assert (tmp_path / "new" / "talk.png").read_bytes().startswith(b"\x89PNG")
    many = tmp_path / "many.jsonl"
    many.write_text(2 * (json.dumps({"messages": TALK}) + "\n"), encoding="utf-8")
    assert run("trace", many, "--emotions", "joyful", "--plot", "f.png").code == 0
    assert sorted(path.name for path in tmp_path.glob("f*.png")) == ["f-2.png", "f.png"]


def test_bad_input_is_one_line_before_anything_is_computed(
    run: Line,
    talk: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    with monkeypatch.context() as patched:
        patched.setattr("saefeat.atlas.opened.load_subject", loaded)
        fails(run("trace", talk, "--alert", "desperate"), "no alert", "desperate>3")
        fails(run("trace", talk, "--alert", "desperat>3"), "did you mean 'desperate'")
        fails(run("trace", talk, "--alert", "desperate>3", "--emotions", "joyfull"), "did you mean 'joyful'")
        fails(run("trace", talk, "--emotions", " , "), "--emotions names none")
        fails(run("trace", talk, "--top", "0"), "--top is 0")
        fails(run("trace", talk, "--smooth", "0"), "--smooth is 0")
        fails(run("trace", talk, "--plot", "x.jpg"), ".png")
        fails(run("trace", talk, "--plot", talk / "x.png"), "talk.json")
        fails(run("trace", talk, "--readout", "nope"), "unknown readout")
        fails(run("trace", talk, "--readout", "felt"), "one token")
        fails(run("trace", talk, "--alert-role", "me"), "me")
        fails(run("trace", tmp_path / "none.json"), "none.json")
    for content in ("", "{", '{"messages": []}', '{"text": "So."}'):
        (tmp_path / "bad.json").write_text(content, encoding="utf-8")
        fails(run("trace", tmp_path / "bad.json", "--plot", "x.png"), "bad.json")
    assert not (tmp_path / "x.png").exists()


def test_trace_needs_none_of_the_training_stack(tiny_root: Path, talk: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('sae_lens', 'wandb', 'transformer_lens', 'sentence_transformers', 'datasets', 'matplotlib'):\n"
        "    sys.modules[name] = None\n"
        "from saefeat.cli import main\n"
        "main()\n"
    )
    arguments = ["--atlas", str(tiny_root / "indexes" / "tiny"), "trace", str(talk), "--json", "--alert", "joyful>-99"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["turns"]
