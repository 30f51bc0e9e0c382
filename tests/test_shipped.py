"""What ships is whole, small enough, and works with the real default model."""

import json
from pathlib import Path

import pytest
import torch

from saefeat.atlas import Atlas
from saefeat.corpus import check_corpus, load_corpus
from saefeat.files import shipped
from saefeat.sae import SAE, load_sae
from saefeat.subject import Subject

NAME, CHECKPOINT, LAYER = "smollm2-135m-instruct", "smollm2-135m-instruct-l19", 19


@pytest.fixture(scope="module")
def sae() -> SAE:
    return load_sae(shipped("checkpoints") / CHECKPOINT)


@pytest.fixture(scope="module")
def x_ND(default_subject: Subject) -> torch.Tensor:
    """Residual vectors of a few stories at the SAE's layer, first tokens left out."""
    texts = [story.text for story in load_corpus("stories").stories[:6]]
    parts = [
        default_subject.residuals(torch.tensor([default_subject.tokenize(t)]), [LAYER])[LAYER][0, 1:] for t in texts
    ]
    return torch.cat(parts).float()


def test_what_ships_is_whole_and_small() -> None:
    assert Atlas.open(NAME).verify() == []
    files = [p for kind in ("checkpoints", "indexes") for p in shipped(kind).rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 24e6


def test_the_shipped_corpus_has_no_errors() -> None:
    corpus = load_corpus("stories")
    assert (len(corpus.emotions), len(corpus.topics), len(corpus.stories)) == (171, 12, 2052)
    assert not [problem for problem in check_corpus(corpus) if problem.severity == "error"]


def test_the_sae_is_as_good_as_its_folder_says() -> None:
    figures = json.loads((shipped("checkpoints") / CHECKPOINT / "quality.json").read_text())["figures"]
    assert figures["explained_variance"] > 0.80
    assert 32 <= figures["l0"] <= 64
    assert figures["dead_share"] < 0.05


@pytest.mark.model
def test_the_sae_explains_the_stream_of_the_real_model(sae: SAE, x_ND: torch.Tensor) -> None:
    xhat_ND = sae.decode(sae.encode(x_ND))
    explained = 1 - (x_ND - xhat_ND).square().sum() / (x_ND - x_ND.mean(0)).square().sum()
    assert explained > 0.75  # stories, not the novels that most of its training text was


@pytest.mark.model
def test_sae_lens_reads_the_shipped_sae_and_computes_the_same(sae: SAE, x_ND: torch.Tensor) -> None:
    from sae_lens import SAE as LensSAE

    theirs = LensSAE.load_from_disk(str(shipped("checkpoints") / CHECKPOINT))
    assert theirs.cfg.metadata.hook_name == f"model.layers.{LAYER}"
    with torch.no_grad():
        acts_NF, lens_NF = sae.encode(x_ND), theirs.encode(x_ND)
        pre_NF = (x_ND - sae.b_dec_D) @ sae.W_enc_DF + sae.b_enc_F
        assert sae.threshold_F is not None
        clear_NF = (pre_NF - sae.threshold_F).abs() > 1e-5 * x_ND.norm(dim=1, keepdim=True)
        assert torch.allclose(acts_NF[clear_NF], lens_NF[clear_NF], rtol=1e-4, atol=1e-4)
        assert torch.allclose(sae.decode(acts_NF), theirs.decode(acts_NF), rtol=1e-4, atol=1e-3)


@pytest.mark.model
def test_the_shipped_atlas_finds_stories_and_explains_scores(default_subject: Subject, tmp_path: Path) -> None:
    atlas = Atlas.open(NAME, subject=default_subject)
    stories = load_corpus("stories").stories[::150]
    results = list(atlas.nearest([story.text for story in stories], top=5, features=None))
    found = [story.emotion in [row["emotion"] for row in result["emotions"]] for story, result in zip(stories, results, strict=True)]  # fmt: skip  # noqa: E501
    assert sum(found) >= 0.9 * len(found)
    for result in results:
        parts = sum(row["contribution"] for row in result["features"])
        assert result["emotions"][0]["score"] == pytest.approx(result["bias"] + parts + result["rest"], abs=1e-3)


FLAT = (
    "The pump moves forty litres a minute at a pressure of three bar.",
    "Torque the eight bolts of the flange to 25 newton metres in a crosswise order.",
    "The function returns a list of tuples, each with a key and the number of times it occurs.",
    "Port 8443 is open on the inside interface and closed on the outside one.",
    "The sample was dried at 105 degrees for two hours and weighed to the nearest milligram.",
    "Each record holds a date, an account number of ten digits and an amount in cents.",
    "The cable has four pairs of copper wire with a diameter of half a millimetre.",
    "A query without an index reads every row of the table.",
    "The lens has a focal length of 50 millimetres and seven elements in six groups.",
    "Version 2.4 of the format adds a checksum after the header of each block.",
)


@pytest.mark.model
def test_flat_technical_sentences_do_not_stand_out(default_subject: Subject) -> None:
    atlas = Atlas.open(NAME, subject=default_subject)
    results = list(atlas.nearest(FLAT, top=1))
    assert {result["readout"] for result in results} == {"felt"}  # 'auto' takes what is made for short texts
    assert not [text for text, result in zip(FLAT, results, strict=True) if result["stands_out"]]
    stories = [story.text for story in load_corpus("stories").stories[::100]]
    assert sum(bool(result["stands_out"]) for result in atlas.nearest(stories, top=1)) >= 0.9 * len(stories)
