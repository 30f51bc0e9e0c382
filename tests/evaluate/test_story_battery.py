"""The story battery end to end on a tiny subject, its controls, and the verb's errors."""

import json
from pathlib import Path

import click.testing
import pytest
import torch

import saefeat.subject
from saefeat.cli import cli
from saefeat.corpus import Story, StoryCorpus
from saefeat.errors import InputError, UnknownName
from saefeat.evaluate import RandomEncoder, evaluate_stories
from saefeat.sae import SAE, save_sae
from saefeat.subject import Subject

WORDS = {"froh": "laughed children sang", "müde": "tired of waiting rain", "ruhig": "old dog slept stove"}
PLACES = {"a": "station train", "b": "garden bread", "c": "party door"}
ROWS = {"sae", "dense", "minilm", "random_directions", "random_encoder", "shuffled"}


def small_corpus() -> StoryCorpus:
    stories = tuple(
        Story(emotion, topic, f"They {words} and {words} and {words} at the {place}.")
        for topic, place in PLACES.items()
        for emotion, words in WORDS.items()
    )
    return StoryCorpus(stories, (), tuple(WORDS), tuple(PLACES), {}, "0123456789abcdef")


def tiny_sae() -> SAE:
    W_DF = torch.randn(32, 60, generator=torch.Generator().manual_seed(0))
    cfg = {"metadata": {"model_name": "tiny", "hook_name": "model.layers.1", "saefeat": {"sink_norm": 1e3}}}
    return SAE(W_DF, torch.zeros(60), W_DF.T.contiguous(), torch.zeros(32), torch.zeros(60), cfg=cfg)


def test_every_row_is_there_and_planted_words_are_found(tiny: Subject) -> None:
    result = evaluate_stories(tiny, tiny_sae(), small_corpus(), ["a", "b"], ["c"], embeddings=False)
    assert set(result["rows"]) == ROWS
    assert result["rows"]["minilm"] == "left out"
    assert result["rows"]["sae"]["top1"] == result["rows"]["dense"]["top1"] == 1.0
    assert result["rows"]["sae"]["width"] == 60
    assert result["rows"]["dense"]["width"] == 32
    assert abs(result["l0_random_encoder"] - result["l0"]) < 1.0
    assert json.loads(json.dumps(result)) == json.loads(json.dumps(result))
    again = evaluate_stories(tiny, tiny_sae(), small_corpus(), ["a", "b"], ["c"], embeddings=False)
    assert again == result  # same seed, same figures


def test_a_random_encoder_is_as_sparse_as_asked_and_keeps_the_largest() -> None:
    x_ND = torch.randn(50, 16, generator=torch.Generator().manual_seed(1))
    free = RandomEncoder(torch.zeros(16), 40, 0, None, seed=0)
    sparse = RandomEncoder(torch.zeros(16), 40, 0, None, seed=0, k=5)
    whole_NF, acts_NF = free.encode(x_ND), sparse.encode(x_ND)
    assert ((acts_NF > 0).sum(1) == 5).all()
    kept_NF = torch.where(acts_NF > 0, whole_NF, 0.0)
    assert torch.equal(kept_NF, acts_NF)
    assert torch.equal(whole_NF.topk(5).values, acts_NF.topk(5).values)


def test_topics_are_checked(tiny: Subject) -> None:
    with pytest.raises(InputError, match="topics b are both trained and tested on"):
        evaluate_stories(tiny, tiny_sae(), small_corpus(), ["a", "b"], ["b", "c"])
    with pytest.raises(UnknownName, match="unknown topic 'z'"):
        evaluate_stories(tiny, tiny_sae(), small_corpus(), ["a", "z"], ["c"])


def test_the_verb_prints_a_table_and_writes_both_files(
    tiny: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "emotions.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    lines = [{"emotion": s.emotion, "topic": s.topic, "text": s.text} for s in small_corpus().stories]
    (corpus / "stories.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    sae = save_sae(tiny_sae(), tmp_path / "sae")
    monkeypatch.setattr(saefeat.subject, "load_subject", lambda *names, **settings: tiny)
    options = ["--sae", str(sae), "--stories", str(corpus), "--no-embeddings", "--out", str(tmp_path / "out")]
    done = click.testing.CliRunner().invoke(cli, ["evaluate", "stories", *options], catch_exceptions=False)
    assert done.exit_code == 0
    assert "random encoder, equal L0" in done.output
    assert "a,b -> c" in done.output
    written = json.loads((tmp_path / "out" / "stories.json").read_text(encoding="utf-8"))
    assert set(written["rows"]) == ROWS
    unknown = [*options, "--train-topics", "a,z"]
    assert isinstance(click.testing.CliRunner().invoke(cli, ["evaluate", "stories", *unknown]).exception, UnknownName)
