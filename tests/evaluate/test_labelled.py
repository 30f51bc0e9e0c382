"""Labelled files and maps: read or refused in one line; class scores, macro-F1 and calibration against references."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saefeat.errors import FormatError, InputError
from saefeat.evaluate import class_scorer, macro_f1, read_labelled
from saefeat.evaluate.labelled import FLAT, against_background, calibrated, labelled_sample, macro_f1_interval

EMOTIONS = ("joyful", "at ease", "furious", "sad")
MAP = """
[classes]
joy = ["Joyful", "at-ease"]
anger = ["furious"]
[labels]
annoyance = "anger"
[neutral]
labels = ["none"]
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    rows = [("we won", "joy"), ("he lied", "annoyance"), ("it is Tuesday", "none"), ("what?", "surprise")]
    data, told = tmp_path / "set.jsonl", tmp_path / "map.toml"
    data.write_text("".join(json.dumps({"text": t, "label": label}) + "\n" for t, label in rows), encoding="utf-8")
    told.write_text(MAP, encoding="utf-8")
    return data, told


def test_labels_become_classes_and_others_are_left_out(files: tuple[Path, Path]) -> None:
    one = read_labelled(*files, EMOTIONS)
    assert one.texts == ("we won", "he lied", "it is Tuesday")
    assert one.class_N.tolist() == [0, 1, FLAT]
    assert (one.classes, one.members, one.left_out) == (("joy", "anger"), ((0, 1), (2,)), 1)


def test_blank_lines_marks_and_rare_characters_are_read(files: tuple[Path, Path]) -> None:
    text = "a line\u2028separator, a next\x85line"
    line = json.dumps({"text": text, "label": "joy", "more": 1}, ensure_ascii=False)
    files[0].write_bytes(f"\ufeff\n{line}\r\n\n".encode())
    assert read_labelled(*files, EMOTIONS).texts == (text,)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "is not a line"),
        ('{"text": "a"}', "is not a line"),
        ("[1]", "is not a line"),
        ("[" * 99999, "is not a line"),
        ('{"text": " ", "label": "joy"}', "must be words"),
        ('{"text": "a", "label": 1}', "must be words"),
        ('{"text": ["a"], "label": "joy"}', "must be words"),
        ('{"text": "\\ud83d", "label": "joy"}', "half a character"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named(files: tuple[Path, Path], line: str, said: str) -> None:
    files[0].write_text('{"text": "we won", "label": "joy"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(FormatError) as error:
        read_labelled(*files, EMOTIONS)
    assert str(error.value).startswith(f"{files[0]} line 2: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "not a readable map"),
        ("", "no .classes."),
        ("[classes]\na = [\"sad\"]", "at least two"),
        ("classes = 1", "no .classes."),
        ("[classes]\na = [\"sad\"]\nb = []", "class b: needs a list"),
        ("[classes]\na = [\"sad\"]\nb = \"joyful\"", "class b: needs a list"),
        ("[classes]\na = [\"sad\"]\nb = [1]", "class b: needs a list"),
        ("[classes]\na = [\"sad\"]\nb = [\"joyfull\"]", "class b: unknown emotion 'joyfull'; did you mean 'joyful'"),
        ("[classes]\na = [\"sad\"]\nb = [\"joyful\", \"at ease\", \"furious\", \"sad\"]", "class b: has all emotions"),
        (MAP.replace('"anger"', '"ange"'), "names no class"),
        (MAP.replace('"anger"', "1"), "must name a class"),
        (MAP.replace("[labels]", "[[labels]]"), "must name a class"),
        (MAP.replace('["none"]', '"none"'), "must list labels"),
        (MAP.replace('["none"]', "[1]"), "must list labels"),
        (MAP.replace('["none"]', '["joy"]'), "neutral and of a class: joy"),
        ("[classes]\na = [\"sad\"]\nb = [\"joyful\"]", "no row has a label"),
    ],
)  # fmt: skip
def test_a_bad_map_is_refused(files: tuple[Path, Path], text: str, said: str) -> None:
    files[1].write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=said) as error:
        read_labelled(*files, EMOTIONS)
    assert files[1].name in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read_are_the_users_fault(files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for wrong in (tmp_path / "no.jsonl", tmp_path / "binary", tmp_path):
        for pair in ((wrong, files[1]), (files[0], wrong)):
            with pytest.raises(InputError, match=f"{wrong.name}: cannot be read"):
                read_labelled(*pair, EMOTIONS)


@settings(deadline=None, max_examples=30)
@given(N=st.integers(1, 40), C=st.integers(2, 5), seed=st.integers(0, 99))
def test_macro_f1_is_that_of_scikit_learn(N: int, C: int, seed: int) -> None:
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(seed)
    true_N, named_N = rng.integers(0, C, N), rng.integers(0, C, N)
    expected = f1_score(true_N, named_N, labels=range(C), average="macro", zero_division=0)
    assert macro_f1(true_N, named_N, C) == pytest.approx(expected)
    low, high = macro_f1_interval(true_N, named_N, C, seed)
    assert 0 <= low <= high <= 1


def test_the_interval_holds_the_figure_and_narrows_with_texts() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for N in (100, 2500):
        true_N = rng.integers(0, 3, N)
        named_N = np.where(rng.random(N) < 0.7, true_N, rng.integers(0, 3, N))
        low, high = macro_f1_interval(true_N, named_N, 3, 0)
        assert low < macro_f1(true_N, named_N, 3) < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 3


@settings(deadline=None, max_examples=30)
@given(N=st.integers(8, 30), seed=st.integers(0, 99))
def test_class_scores_are_those_of_a_slow_twin(N: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    members, emotion_N = [[0, 2], [1], [3, 2]], np.arange(N) % 5
    heldout_NE, scores_ME = rng.normal(size=(N, 5)), rng.normal(size=(4, 5))
    heldout_NE[0, 0] = np.nan  # a score that is not known counts for nothing
    found_MC = class_scorer(members, heldout_NE, emotion_N)(scores_ME)

    def above(scores_E: np.ndarray, own: list[int]) -> float:
        return float(np.mean([scores_E[e] for e in own]) - np.nanmean(scores_E))

    for m, scores_E in enumerate(scores_ME):
        for c, own in enumerate(members):
            others = [above(row, own) for row, e_n in zip(heldout_NE, emotion_N, strict=True) if e_n not in own]
            others = [score for score in others if not np.isnan(score)]
            expected = (above(scores_E, own) - np.mean(others)) / (np.std(others) or 1)
            assert found_MC[m, c] == pytest.approx(expected)


def test_a_class_whose_scores_never_vary_is_not_divided_by_nothing() -> None:
    scorer = class_scorer([[0], [1]], np.ones((6, 3)), np.arange(6) % 3)
    assert scorer(np.array([[2.0, 1.0, 0.0]])).tolist() == [[1.0, 0.0]]


def test_what_raises_every_score_alike_tells_no_class() -> None:
    rng = np.random.default_rng(2)
    emotion_N, scores_NE = rng.integers(0, 6, 600), rng.normal(size=(600, 6))
    scorer = class_scorer([[0], [1, 2, 3]], scores_NE, emotion_N)
    np.testing.assert_allclose(scorer(scores_NE + rng.normal(0, 9, (600, 1))), scorer(scores_NE), atol=1e-9)


def test_a_class_of_many_emotions_is_not_favoured() -> None:
    rng = np.random.default_rng(0)
    emotion_N, scores_NE = rng.integers(0, 6, 3000), rng.normal(size=(3000, 6)) + 5
    scorer = class_scorer([[0], [1, 2, 3, 4]], scores_NE, emotion_N)
    fresh_NC = scorer(rng.normal(size=(4000, 6)) + 5)
    assert np.abs(fresh_NC.mean(0)).max() < 0.1
    assert np.abs(fresh_NC.std(0) - 1).max() < 0.1
    centred_NE = scores_NE - scores_NE.mean(1, keepdims=True)
    own = [centred_NE[n, [1, 2, 3, 4]].mean() for n in range(3000) if emotion_N[n] not in (1, 2, 3, 4)]
    assert scorer.mean_C[1] == pytest.approx(np.mean(own))
    assert scorer.sd_C[1] == pytest.approx(np.std(own))


def test_calibration_mends_classes_that_are_shifted() -> None:
    rng = np.random.default_rng(1)
    class_N = rng.integers(0, 3, 600)
    scores_NC = rng.normal(size=(600, 3)) + 2 * np.eye(3)[class_N] + np.array([9, 0, -9])
    sample = labelled_sample(class_N, 60, 0)
    rest = np.setdiff1d(np.arange(600), sample)
    assert (scores_NC[rest].argmax(1) == class_N[rest]).mean() < 0.5
    assert (calibrated(scores_NC, class_N, sample)[rest] == class_N[rest]).mean() > 0.8
    assert (against_background(scores_NC, scores_NC).argmax(1) == class_N).mean() > 0.8


def test_calibration_uses_the_sample_alone_and_names_no_class_that_it_lacks() -> None:
    rng = np.random.default_rng(2)
    class_N = rng.integers(0, 3, 90)
    scores_NC = rng.normal(size=(90, 3)) + np.eye(3)[class_N]
    sample = np.flatnonzero(class_N != 1)[:20]
    named_N = calibrated(scores_NC, class_N, sample)
    assert set(named_N) == {0, 2}
    others = np.setdiff1d(np.arange(90), sample)
    mixed_N = class_N.copy()
    mixed_N[others] = rng.permutation(mixed_N[others])
    assert (calibrated(scores_NC, mixed_N, sample) == named_N).all()
    alone = calibrated(scores_NC[np.append(sample, 77)], class_N[np.append(sample, 77)], np.arange(20))
    assert alone[-1] == named_N[77]


def test_calibration_on_one_row_a_class_or_on_constant_scores_still_names_classes() -> None:
    class_N = np.array([0, 1, 2, 0, 1, 2])
    scores_NC = 5 * np.eye(3)[class_N]
    assert (calibrated(scores_NC, class_N, np.array([0, 1, 2])) == class_N).all()
    assert set(calibrated(np.zeros((6, 3)), class_N, np.array([0, 1, 2]))) <= {0, 1, 2}


def test_a_background_takes_away_what_all_ones_texts_share() -> None:
    rng = np.random.default_rng(3)
    background_MC = rng.normal(size=(500, 2)) * [1, 4] + [3, -2]
    told_NC = against_background(background_MC[:7], background_MC)
    np.testing.assert_allclose(told_NC, (background_MC[:7] - background_MC.mean(0)) / background_MC.std(0))
    constant = against_background(np.array([[1.0, 2.0]]), np.ones((3, 2)))
    assert constant.tolist() == [[0.0, 1.0]]


def test_the_labelled_sample_is_even_and_seeded() -> None:
    class_N = np.array([0] * 50 + [1] * 5 + [FLAT] * 20)
    sample = labelled_sample(class_N, 12, 3)
    assert np.bincount(class_N[sample]).tolist() == [7, 5]
    assert (sample == labelled_sample(class_N, 12, 3)).all()
    assert not np.array_equal(sample, labelled_sample(class_N, 12, 4))
    three_N = np.repeat([0, 1, 2], 30)
    for seed in range(5):
        assert np.bincount(three_N[labelled_sample(three_N, 21, seed)]).tolist() == [7, 7, 7]
    for count in (0, 55):
        with pytest.raises(InputError, match="between 1 and 54"):
            labelled_sample(class_N, count, 0)
