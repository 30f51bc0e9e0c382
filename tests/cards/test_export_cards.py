"""Cards of a real small atlas: their figures are the atlas's, their files whole, their links not dead."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from click.testing import CliRunner

from saefeat.atlas import Atlas
from saefeat.cards import demo_report, emotion_card, export_cards, feature_card
from saefeat.cli.cards import command
from saefeat.cli.common import Settings
from saefeat.errors import InputError, UnknownName
from tests.tiny_atlas import build_tiny_atlas


@pytest.fixture(scope="module")
def atlas_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_atlas(tmp_path_factory.mktemp("cards"))


@pytest.fixture(scope="module")
def atlas(atlas_path: Path) -> Atlas:
    return Atlas.open(atlas_path, device="cpu", dtype="float32")


def dead_links(page: Path) -> list[str]:
    targets = re.findall(r'href="([^"]+)"', page.read_text(encoding="utf-8"))
    return [target for target in targets if not (page.parent / unquote(target)).is_file()]


def run(atlas_path: Path, *arguments: str) -> Any:
    return CliRunner().invoke(
        command, ["export", *arguments], obj=Settings(atlas=str(atlas_path), device="cpu", dtype="float32", quiet=True)
    )


def test_a_feature_card_says_what_the_atlas_knows(atlas: Atlas) -> None:
    name = atlas.features("at ease", top=1)[0]["feature"]
    card, known = feature_card(atlas, name), atlas.feature(name)
    assert json.loads(json.dumps(card, allow_nan=False)) == card
    assert card["density"] == known["density"]
    assert card["histogram"]["counts"] == known["histogram"]["counts"]
    assert card["words_up"] == known["words"]["up"]
    assert card["words_down"] == known["words"]["down"]
    assert [s["tokens"] for s in card["snippets"]] == [e["tokens"] for e in known["examples"]]
    assert card["max_activation"] == max(max(s["values"]) for s in card["snippets"])
    assert {row["emotion"] for row in card["labels"]} == {row["emotion"] for row in known["labels"]}
    ranks = [row["rank_for_feature"] for row in card["labels"] if row["readout"] == "story"]
    assert ranks == sorted(ranks)
    assert card["decoder_norm"] == pytest.approx(1, abs=1e-3)
    assert card["provenance"]["fingerprints"]["weights"] == atlas.subject().fingerprint.weights
    assert "/" not in card["provenance"]["model"]  # no local path in what is passed on


def test_a_bare_number_is_a_feature_of_the_primary_sae(atlas: Atlas) -> None:
    assert feature_card(atlas, "3")["name"] == "L1.3"


def test_an_emotion_card_lists_the_features_that_carry_it(atlas: Atlas) -> None:
    card = emotion_card(atlas, "At-Ease", top=4)
    assert card["name"] == "at ease"
    assert card["features"] == atlas.features("at ease", top=4)
    assert "at ease" not in card["family_members"]
    assert {near["emotion"] for near in card["nearest"]} <= set(atlas.emotion_names) - {"at ease"}
    assert {s["feature"] for s in card["snippets"]} <= {row["feature"] for row in card["features"]}
    assert json.loads(json.dumps(card, allow_nan=False)) == card


@pytest.mark.parametrize("format", ["html", "md", "json"])
def test_export_writes_whole_files_with_live_links(atlas: Atlas, tmp_path: Path, format: str) -> None:
    out = tmp_path / "cards"
    seen: list[tuple[int, int]] = []
    files = export_cards(
        atlas, emotions=["at-ease", "at ease"], features=["L1.3", "3"], format=format, out=out, top=2,
        on_progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert len(files) in (3, 4)  # the emotion, L1.3 and two features, of which L1.3 may be one
    assert files["at ease"].name == f"at-ease.{format}"
    assert files["L1.3"].name == f"L1.3.{format}"
    assert sorted(p.name for p in out.iterdir()) == sorted([*(p.name for p in files.values()), "index.html"])
    assert seen == [(i + 1, len(files)) for i in range(len(files))]
    assert not dead_links(out / "index.html")
    assert len(re.findall("href=", (out / "index.html").read_text(encoding="utf-8"))) == len(files)
    if format == "html":
        assert all(not dead_links(path) for path in files.values())
        assert (
            'href="at-ease.html"' in files[emotion_card(atlas, "at ease", top=2)["features"][0]["feature"]].read_text()
        )
    if format == "json":
        assert json.loads(files["L1.3"].read_text(encoding="utf-8")) == feature_card(atlas, "L1.3")


def test_export_of_everything_has_every_emotion_and_labelled_feature(atlas: Atlas, tmp_path: Path) -> None:
    files = export_cards(atlas, everything=True, format="html", out=tmp_path)
    labelled = {f"{s}.{f}" for s, f in zip(atlas.labels["sae"], atlas.labels["feature"], strict=True)}
    assert set(files) == labelled | set(atlas.emotion_names)
    assert not dead_links(tmp_path / "index.html")


def test_an_export_again_replaces_cards_and_leaves_other_files_alone(atlas: Atlas, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    first = export_cards(atlas, features=["L1.3"], out=tmp_path)["L1.3"]
    first.write_text("old")
    export_cards(atlas, features=["L1.3"], out=tmp_path)
    assert first.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("chosen", "error", "said"),
    [
        ({"emotions": ["desparate"]}, UnknownName, "desperate"),
        ({"features": ["L9.3"]}, UnknownName, "L1"),
        ({"features": ["L1.3", "L1.64"]}, InputError, "0 to 63"),
        ({"features": ["L1.x"]}, InputError, "L1.x"),
        ({"emotions": ["joyful"], "everything": True}, InputError, "--all"),
        ({}, InputError, "no card"),
        ({"features": ["L1.3"], "format": "pdf"}, InputError, "pdf"),
        ({"features": ["L1.3"], "top": 0}, InputError, "top"),
    ],
)
def test_a_wrong_choice_is_said_before_anything_is_written(
    atlas: Atlas, tmp_path: Path, chosen: dict[str, Any], error: type[InputError], said: str
) -> None:
    with pytest.raises(error, match=re.escape(said)):
        export_cards(atlas, out=tmp_path / "cards", **chosen)
    assert not (tmp_path / "cards").exists()


def test_a_folder_that_cannot_be_written_is_said(atlas: Atlas, tmp_path: Path) -> None:
    (tmp_path / "cards").write_text("a file")
    with pytest.raises(InputError, match="cannot write here"):
        export_cards(atlas, features=["L1.3"], out=tmp_path / "cards")


def test_a_failure_midway_leaves_no_half_card(atlas: Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []

    def stop(count: int, total: int) -> None:
        done.append(count)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_cards(atlas, features=["L1.3", "L1.4"], out=tmp_path, on_progress=stop)
    left = [path.name for path in tmp_path.iterdir()]
    assert left == ["L1.3.html"]
    assert (tmp_path / "L1.3.html").read_text(encoding="utf-8").endswith("</html>\n")


def test_the_report_shows_queries_quality_and_links(atlas: Atlas, tmp_path: Path) -> None:
    texts = ["She counted the coins <again> and the rent was due", "The dog slept beside the stove " * 9]
    results = list(atlas.nearest(texts, top=3, tokens=True))
    quality = {"explained_variance": 0.83, "l0": 47.9, "dead_share": 0.01, "ce_recovered": 0.97}
    cards = export_cards(atlas, emotions=[results[0]["emotions"][0]["emotion"]], out=tmp_path / "cards")
    page = demo_report(atlas, results, tmp_path / "report.html", texts=texts, quality=quality, cards=cards)
    said = page.read_text(encoding="utf-8")
    assert not dead_links(page)
    assert "&lt;" in said
    assert "<again>" not in said
    for figure in ("83.0 %", "47.9", "1.00 %", "97.0 %", results[1]["features"][0]["feature"]):
        assert figure in said, figure
    assert said.count("<span style=") >= 10  # both texts are highlighted


def test_the_report_needs_no_tokens_texts_quality_or_cards(atlas: Atlas, tmp_path: Path) -> None:
    results = list(atlas.nearest(["The dog slept"], top=1))
    assert demo_report(atlas, results, tmp_path / "r.html").read_text(encoding="utf-8").endswith("</html>\n")


# ---------------------------------------------------------------- the verb
def test_the_verb_writes_cards_and_says_where(atlas_path: Path, tmp_path: Path) -> None:
    done = run(atlas_path, "--emotion", "at-ease", "--features", "L1.3, 4", "--out", str(tmp_path), "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert {"at ease", "L1.3", "L1.4"} <= set(told["cards"])
    assert Path(told["index"]).is_file()
    assert all(Path(path).is_file() for path in told["cards"].values())
    assert "cards in" in run(atlas_path, "--features", "3", "--format", "md", "--out", str(tmp_path)).stdout


def test_the_verb_refuses_contradictions_before_an_atlas_is_opened(tmp_path: Path) -> None:
    for arguments in (["--all", "--emotion", "joyful"], ["--all", "--features", "L1.1"], []):
        done = run(tmp_path / "nowhere", *arguments, "--out", str(tmp_path / "out"))
        assert isinstance(done.exception, InputError)
        assert "nowhere" not in str(done.exception)
    assert not (tmp_path / "out").exists()
