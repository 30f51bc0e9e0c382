"""Pools of dialogues against one pass by hand, and the readouts that are fitted on them."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from saefeat.atlas import Atlas, choose_readout
from saefeat.config import OF_DIALOGUES, OTHER, SPEAKER, STORY, WITH_SHORT_TEXTS, LabelConfig, ReadoutConfig
from saefeat.corpus import load_corpus, load_dialogues
from saefeat.errors import InputError
from saefeat.label import (
    NEUTRAL,
    default_readouts,
    dialogues_of,
    is_read,
    label,
    pool_dialogues,
    pool_texts,
    read_manifest,
    spoken_by,
)
from saefeat.sae import SAE, load_sae
from saefeat.subject import Subject, render_chat
from tests.tiny import tiny_subject
from tests.tiny_atlas import write_corpus, write_dialogues, write_sae


def test_turns_and_openings_are_what_one_pass_by_hand_gives(talking_atlas: Atlas, tmp_path: Path) -> None:
    subject, sae = talking_atlas.subject(), talking_atlas.sae()
    corpus = load_dialogues(write_dialogues(tmp_path / "d"))
    pooled = pool_dialogues(subject, corpus, [SPEAKER, OTHER], {"speaker": sae, "other": sae})
    for number in (0, 7, len(corpus.dialogues)):
        one = (*corpus.dialogues, *corpus.neutral)[number]
        ids, turns = render_chat(subject, one.messages)
        acts_TF = sae.encode(subject.residuals(torch.tensor([ids]), [sae.layer])[sae.layer][0]).numpy()
        for i, turn in enumerate(turns):
            own_F = acts_TF[turn.content_start : turn.content_stop].mean(0)
            np.testing.assert_allclose(pooled["speaker"][0][4 * number + i], np.sqrt(own_F), atol=1e-5)
            after_F = np.zeros_like(own_F)
            if i < 3:
                after_F = acts_TF[turn.content_stop : turns[i + 1].content_start].mean(0)
            np.testing.assert_allclose(pooled["other"][0][4 * number + i], after_F, atol=1e-5)
    density_F = pooled["other"][1]
    assert density_F.min() >= 0
    assert 0 < density_F.max() <= 1


def test_an_opening_after_a_single_text_is_that_of_a_dialogue(talking_atlas: Atlas, tmp_path: Path) -> None:
    """What pooling of texts reads where a reply starts is what pooling of dialogues reads after a first turn."""
    subject, sae = talking_atlas.subject(), talking_atlas.sae()
    corpus = load_dialogues(write_dialogues(tmp_path / "d"))
    text = corpus.turns[0].text
    alone = pool_texts(subject, [text], [OTHER, SPEAKER], {"other": sae, "speaker": sae})
    pooled = pool_dialogues(subject, corpus, [OTHER, SPEAKER], {"other": sae, "speaker": sae})
    for name in ("other", "speaker"):
        np.testing.assert_allclose(alone.features[name][0], pooled[name][0][0], atol=1e-5)


def test_rows_are_labelled_by_who_has_spoken(tmp_path: Path) -> None:
    corpus = load_dialogues(write_dialogues(tmp_path / "d"))
    speaker_N, other_N, topic_N = spoken_by(corpus)
    assert [corpus.emotions[e] for e in speaker_N[:2]] == ["desperate", "joyful"]
    assert (speaker_N[0], speaker_N[1]) == (other_N[1], other_N[0])
    assert set(speaker_N[-12:]) == {NEUTRAL}
    assert topic_N[0] == "dt01"
    assert is_read(SPEAKER, [corpus]).all()
    assert is_read(OTHER, [corpus]).reshape(-1, 4).all(0).tolist() == [True, True, True, False]


def test_a_dialogue_longer_than_the_context_is_refused(tmp_path: Path) -> None:
    subject = tiny_subject()
    corpus = load_dialogues(write_dialogues(tmp_path / "d"))
    long = replace(corpus.dialogues[1], messages=tuple(
        {**m, "content": "so it goes " * 300} for m in corpus.dialogues[1].messages
    ))  # fmt: skip
    corpus = replace(corpus, dialogues=(corpus.dialogues[0], long))
    with pytest.raises(InputError, match=r"dialogue 2: takes .* tokens"):
        pool_dialogues(subject, corpus, [SPEAKER], {"speaker": write_tiny_sae(tmp_path, subject)})


def write_tiny_sae(tmp_path: Path, subject: Subject) -> SAE:
    return load_sae(write_sae(tmp_path / "sae", subject))


# ---------------------------------------------------------------- the readouts
def test_the_label_directory_tells_of_both_speakers(talking_atlas: Atlas) -> None:
    told = talking_atlas.readouts
    assert list(told) == ["story", "speaker", "other"]  # those of texts first, whatever the order of the config
    for name in ("speaker", "other"):
        assert told[name]["stands_out"] is not None
        assert 0 <= told[name]["the_wrong_one"]["top1"] <= told[name]["the_wrong_one"]["top5"]
        assert set(told[name]["heldout_dialogues"]) == {"top1", "top5"}
    # four emotions told in the same words on other topics: even a random model tells them
    assert told["speaker"]["heldout_dialogues"]["top1"] > told["speaker"]["the_wrong_one"]["top1"] + 0.3
    assert {*talking_atlas.labels["readout"]} == {"story"}  # features are labelled by texts
    assert talking_atlas.text_readouts == ["story"]
    assert talking_atlas.readout_config("other").dialogues
    assert talking_atlas.verify() == []


def test_auto_never_reads_as_in_a_dialogue(talking_atlas: Atlas) -> None:
    assert {choose_readout(talking_atlas.readouts, n) for n in (1, 30, 59, 60, 5000)} == {"story"}
    read = next(talking_atlas.nearest(["They danced and sang in the garden."], readout="other"))
    assert (read["readout"], len(read["emotions"])) == ("other", 4)
    total = read["bias"] + read["rest"] + sum(row["contribution"] for row in read["features"])
    assert total == pytest.approx(read["emotions"][0]["score"], abs=1e-5)
    told = next(talking_atlas.nearest(["They danced and sang in the garden."], readout="other", tokens=True))
    added = read["bias"] + sum(token["score"] for token in told["tokens"])
    assert added == pytest.approx(read["emotions"][0]["score"], abs=1e-4)
    assert not any(token["used"] for token in told["tokens"][:3])


def test_defaults_have_them_where_the_emotions_and_the_model_do(tmp_path: Path) -> None:
    stories, other = load_corpus("stories"), load_corpus(write_corpus(tmp_path / "s"))
    assert default_readouts(stories, chat=True) == (*WITH_SHORT_TEXTS, *OF_DIALOGUES)
    assert default_readouts(stories, chat=False) == WITH_SHORT_TEXTS
    assert default_readouts(other, chat=True) == default_readouts(other, chat=False) == (STORY,)


def test_a_model_without_a_chat_template_is_labelled_without_them_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    speaker = replace(SPEAKER, also=(), dialogues=(str(write_dialogues(tmp_path / "d")),))
    module = sys.modules["saefeat.label.label"]
    monkeypatch.setattr(module, "default_readouts", lambda corpus, chat: (STORY, speaker) if chat else (STORY,))
    subject = tiny_subject()
    sae = write_sae(tmp_path / "sae", subject)
    subject.tokenizer.chat_template = None
    corpus = load_corpus(write_corpus(tmp_path / "s"))
    config = LabelConfig(stories=str(tmp_path / "s"), ridge=3.0)
    label(subject, [sae], corpus, config, tmp_path / "labels")
    assert [r["name"] for r in read_manifest(tmp_path / "labels")["readouts"]] == ["story"]
    assert sum("no chat template" in message for message in caplog.messages) == 1
    asked = LabelConfig(readouts=(STORY, speaker))
    with pytest.raises(InputError, match="no chat template"):
        label(subject, [sae], corpus, asked, tmp_path / "more")


def test_dialogues_must_fit(tmp_path: Path) -> None:
    stories = load_corpus(write_corpus(tmp_path / "s"))
    with pytest.raises(InputError, match="other emotions"):
        dialogues_of(replace(SPEAKER, also=()), stories)
    own = str(write_dialogues(tmp_path / "d"))
    with pytest.raises(InputError, match="have the topic dt01"):
        dialogues_of(replace(SPEAKER, also=(), dialogues=(own, own)), stories)
    for wrong in ({"frame": "text"}, {"below": 60}, {"pool": "last"}, {"stories": True}):
        with pytest.raises(InputError, match="dialogues are read in the chat frame"):
            replace(SPEAKER, **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="openings"):
        ReadoutConfig(name="x", pool="opening")
    with pytest.raises(InputError, match="without dialogues"):
        LabelConfig(readouts=OF_DIALOGUES)
