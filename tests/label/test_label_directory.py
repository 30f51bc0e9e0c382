"""The label directory: complete, consistent with the pools, reused, and never half-written."""

import dataclasses
import importlib
import json
from pathlib import Path

import click.testing
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from saefeat.cli import cli
from saefeat.config import FELT, STORY, LabelConfig, ReadoutConfig
from saefeat.corpus import Neutral, Story, StoryCorpus, load_corpus
from saefeat.errors import FormatError, InputError, ModelMismatch, UnknownName
from saefeat.files import read_json, sha256_file
from saefeat.label import NEUTRAL, emotions_and_topics, label, pool_texts, pooled, read_manifest, read_prototypes
from saefeat.sae import SAE, load_sae, save_sae
from saefeat.subject import Subject
from tests.tiny import tiny_subject

BOTH = (STORY, FELT)
WORDS = {"froh": "laughed children sang", "müde": "tired of waiting rain", "at ease": "old dog slept stove"}
PLACES = {"a": "station train", "b": "garden bread", "c": "party door", "d": "phone light"}


def small_corpus() -> StoryCorpus:
    stories = tuple(
        Story(emotion, topic, f"They {words} and {words} at the {place}.")
        for topic, place in PLACES.items()
        for emotion, words in WORDS.items()
    )
    neutral = tuple(Neutral(topic, "narrative", f"Then the {place} was there.") for topic, place in PLACES.items())
    return StoryCorpus(stories, neutral, tuple(WORDS), tuple(PLACES), {}, "0123456789abcdef")


def tiny_sae(path: Path, *, layer: int = 1, d_model: int = 32, subject: dict[str, str] | None = None) -> Path:
    generator = torch.Generator().manual_seed(layer)
    W_DF = torch.randn(d_model, 40, generator=generator)
    metadata = {"model_name": "tiny", "hook_name": f"model.layers.{layer}", "saefeat": {"sink_norm": 1e3}}
    if subject:
        metadata["saefeat"]["subject"] = subject  # type: ignore[index]
    zeros = torch.zeros
    sae = SAE(W_DF, zeros(40) - 0.1, W_DF.T.contiguous(), zeros(d_model), zeros(40), cfg={"metadata": metadata})
    return save_sae(sae, path)


@pytest.fixture
def made(tiny: Subject, tmp_path: Path) -> tuple[Path, Path]:
    sae = tiny_sae(tmp_path / "sae")
    return label(tiny, [sae], small_corpus(), LabelConfig(readouts=BOTH), tmp_path / "labels"), sae


def test_the_directory_holds_what_the_manifest_says(tiny: Subject, made: tuple[Path, Path]) -> None:
    out, sae = made
    corpus, manifest = small_corpus(), read_manifest(out)
    assert (manifest["format"], manifest["format_version"]) == ("labels", 2)
    assert manifest["emotions"] == list(WORDS)
    assert manifest["topics"] == list(PLACES)
    assert set(manifest["families"]) == set(WORDS)
    texts = [s.text for s in corpus.stories] + [n.text for n in corpus.neutral]
    loaded = load_sae(sae)
    pools = pool_texts(tiny, texts, [STORY, FELT], {"story": loaded, "felt": loaded})
    readouts, of = [STORY, FELT], {"story": loaded, "felt": loaded}
    weights = dict.fromkeys(of, sha256_file(sae / "sae_weights.safetensors"))
    before = (out / "pools.h5").read_bytes()
    kept = pooled(tiny, readouts, of, {name: [corpus] for name in of}, weights, out / "pools.h5")
    assert (out / "pools.h5").read_bytes() == before  # read, not made again
    for described in manifest["readouts"]:
        name = described["name"]
        X_NF, density_F = kept[name]
        np.testing.assert_allclose(X_NF, pools.features[name], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(density_F, pools.density[name], atol=1e-6)
        fit = read_prototypes(out)[name]
        assert np.abs(fit.W_FE).max() < 65504  # float16 holds it
        top_N = fit.heldout_NE[emotions_and_topics([corpus])[0] == NEUTRAL].max(1)
        assert described["ridge"] == pytest.approx(fit.ridge)
        assert abs(described["stands_out"] - np.quantile(top_N, 0.95)) < 1e-3
        assert described["sae"] == "L1"
    table = pq.read_table(out / "labels.parquet")
    columns = "sae feature emotion readout auroc heldout_auroc folds mean_difference density rank_for_emotion"
    columns += " rank_for_feature auroc_low auroc_high p_value q_value max_t_p"
    columns += " eta2_emotion omega2_emotion eta2_topic omega2_topic firing_auroc kind says"
    assert table.column_names == columns.split()
    assert np.isfinite(table["q_value"].to_numpy()).all()
    assert set(table["kind"].to_pylist()) <= {"emotion", "family", "dimension", "lexical", "topic", "none"}
    assert all(sentence.endswith(".") for sentence in table["says"].to_pylist())
    assert set(table["emotion"].to_pylist()) == set(WORDS)
    assert set(table["readout"].to_pylist()) == {"story", "felt"}


def test_pools_are_reused_for_other_topics_and_nothing_is_done_twice(
    tiny: Subject, made: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, sae = made
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}

    def refuse(*args: object, **settings: object) -> None:
        raise AssertionError("pooled again")

    monkeypatch.setattr(importlib.import_module("saefeat.label.store"), "pool_texts", refuse)
    label(tiny, [sae], small_corpus(), LabelConfig(readouts=BOTH), out)
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.name != ".lock"} == {
        name: when for name, when in before.items() if name != ".lock"
    }
    label(tiny, [sae], small_corpus(), LabelConfig(readouts=BOTH, topics=("a", "b", "c")), out)
    assert read_manifest(out)["topics"] == ["a", "b", "c"]
    with pytest.raises(AssertionError, match="pooled again"):
        other = dataclasses.replace(small_corpus(), fingerprint="another")
        label(tiny, [sae], other, LabelConfig(readouts=BOTH), out)


def test_prototypes_of_some_topics_do_not_depend_on_the_others(tiny: Subject, tmp_path: Path) -> None:
    sae, corpus = tiny_sae(tmp_path / "sae"), small_corpus()
    label(tiny, [sae], corpus, LabelConfig(readouts=BOTH, topics=("a", "b")), tmp_path / "part")
    label(tiny, [sae], corpus.on_topics(["a", "b"]), LabelConfig(readouts=BOTH), tmp_path / "alone")
    part, alone = read_prototypes(tmp_path / "part"), read_prototypes(tmp_path / "alone")
    for name in part:
        np.testing.assert_allclose(part[name].W_FE, alone[name].W_FE, rtol=1e-2, atol=1e-3)


def test_a_readout_may_have_an_sae_of_its_own(tiny: Subject, tmp_path: Path) -> None:
    saes = [tiny_sae(tmp_path / "one", layer=1), tiny_sae(tmp_path / "two", layer=2)]
    felt = dataclasses.replace(FELT, sae="L2")
    label(tiny, saes, small_corpus(), LabelConfig(readouts=(STORY, felt)), tmp_path / "labels")
    found = {r["name"]: (r["sae"], r["layer"]) for r in read_manifest(tmp_path / "labels")["readouts"]}
    assert found == {"story": ("L1", 1), "felt": ("L2", 2)}
    with pytest.raises(UnknownName, match="unknown SAE 'L9'"):
        config = LabelConfig(readouts=(ReadoutConfig(name="x", sae="L9"),))
        label(tiny, saes, small_corpus(), config, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_an_sae_of_another_model_is_refused(tiny: Subject, tmp_path: Path) -> None:
    narrow = tiny_sae(tmp_path / "narrow", d_model=16)
    with pytest.raises(InputError, match="reads 16 dimensions"):
        label(tiny, [narrow], small_corpus(), LabelConfig(readouts=BOTH), tmp_path / "labels")
    other = tiny_subject(seed=1).fingerprint
    sae = tiny_sae(tmp_path / "sae", subject=other.to_dict())
    with pytest.raises(ModelMismatch):
        label(tiny, [sae], small_corpus(), LabelConfig(readouts=BOTH), tmp_path / "labels")
    label(tiny, [sae], small_corpus(), LabelConfig(readouts=BOTH), tmp_path / "labels", allow_other_weights=True)


def test_corrupt_and_newer_files_are_refused_in_one_line(tiny: Subject, made: tuple[Path, Path]) -> None:
    out, sae = made
    (out / "pools.h5").write_bytes((out / "pools.h5").read_bytes()[:700])
    with pytest.raises(FormatError, match="pools"):
        label(tiny, [sae], small_corpus(), LabelConfig(readouts=BOTH), out)
    (out / "prototypes.safetensors").write_bytes(b"x")
    with pytest.raises(FormatError, match="prototypes"):
        read_prototypes(out)
    manifest = read_json(out / "manifest.json", kind="labels", version=2)
    (out / "manifest.json").write_text(json.dumps({**manifest, "format_version": 99}))
    with pytest.raises(FormatError, match="upgrade saefeat"):
        label(tiny, [sae], small_corpus(), LabelConfig(readouts=BOTH), out)


def test_the_verb_refuses_what_is_wrong_before_it_writes(tmp_path: Path) -> None:
    def failure(*arguments: str) -> BaseException | None:
        return click.testing.CliRunner().invoke(cli, ["label", *arguments]).exception

    out = tmp_path / "out"
    assert isinstance(failure("--sae", str(tmp_path), "--out", str(out), "--stories", str(tmp_path / "no")), InputError)
    assert isinstance(failure("--sae", str(tmp_path), "--out", str(out), "--ridge", "0"), InputError)
    assert not out.exists()


def test_the_shipped_corpus_is_what_the_label_room_expects() -> None:
    corpus = load_corpus("stories")
    assert {story.emotion for story in corpus.stories} == set(corpus.emotions)
