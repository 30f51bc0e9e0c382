"""Somebody else's SAE becomes an atlas that answers, without training, and says how its sinks were found."""

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from saefeat.atlas import Atlas
from saefeat.config import BuildConfig, HarvestConfig, LabelConfig, SaeConfig, SubjectConfig, load_config
from saefeat.errors import InputError, MissingModel
from saefeat.pipeline import build
from saefeat.sae import load_sae, read_foreign
from saefeat.subject import load_subject
from tests.tiny import TEXT, tiny_subject
from tests.tiny_atlas import write_corpus, write_model

SPARSIFY = Path(__file__).parents[1] / "data" / "sparsify"
D, F = 32, 80


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inputs")
    write_model(root / "model")
    write_corpus(root / "stories")
    return root


def config_of(root: Path, sae: Path | str, *, layer: int | None = None, model: str = "model") -> BuildConfig:
    return BuildConfig(
        name="theirs",
        subject=SubjectConfig(device="cpu", dtype="float32"),
        sae=SaeConfig(from_=str(sae), layer=layer, model=str(root / model) if model else ""),
        label=LabelConfig(stories=str(root / "stories")),
    )


def from_sae_lens(path: Path, architecture: str, **metadata: Any) -> Path:
    """An SAE of 80 random features, made and saved by sae-lens."""
    import sae_lens as sl
    from sae_lens.saes.sae import SAEMetadata

    torch.manual_seed(3)
    told = {"hook_name": "blocks.1.hook_resid_post", "model_name": "unheard-of", **metadata}
    shape = {"d_in": D, "d_sae": F, "metadata": SAEMetadata(**told)}
    makers = {
        "standard": lambda: sl.StandardTrainingSAE(sl.StandardTrainingSAEConfig(**shape)),
        "gated": lambda: sl.GatedTrainingSAE(sl.GatedTrainingSAEConfig(**shape)),
        "topk": lambda: sl.TopKTrainingSAE(sl.TopKTrainingSAEConfig(k=9, **shape)),
        "matryoshka": lambda: sl.MatryoshkaBatchTopKTrainingSAE(
            sl.MatryoshkaBatchTopKTrainingSAEConfig(k=9, matryoshka_widths=[20, F], **shape)
        ),
    }
    made: Any = makers[architecture]()
    made.save_inference_model(str(path))
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    found = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


@pytest.mark.parametrize("kind", ["standard", "gated", "topk", "matryoshka", "sparsify topk", "sparsify groupmax"])
def test_an_sae_of_others_becomes_an_atlas_that_answers(inputs: Path, tmp_path: Path, kind: str) -> None:
    own = kind.startswith("sparsify")
    source = SPARSIFY / kind.split()[1] / "layers.1" if own else from_sae_lens(tmp_path / "sae", kind)
    built = build(config_of(inputs, source), tmp_path / "out")
    assert built.activations is None
    assert not (tmp_path / "out" / "activations").exists()
    assert built.quality["on"] == "stories"

    atlas = Atlas.open(built.atlas, device="cpu", dtype="float32")
    [answer] = atlas.nearest([TEXT], top=3)
    assert len(answer["emotions"]) == 3
    assert answer["features"][0]["feature"].startswith("L1.")
    kept, theirs = atlas.sae("L1"), read_foreign(str(source)).sae
    x_ND = torch.randn(20, D) * 4
    torch.testing.assert_close(kept.encode(x_ND), theirs.encode(x_ND))
    assert kept.hook_point == "model.layers.1"

    before = files_of(tmp_path / "out")
    assert build(config_of(inputs, source), tmp_path / "out").atlas == built.atlas
    assert files_of(tmp_path / "out") == before


def test_the_sink_rule_is_measured_on_the_stories_and_recorded(inputs: Path, tmp_path: Path) -> None:
    source = from_sae_lens(tmp_path / "sae", "topk")
    built = build(config_of(inputs, source), tmp_path / "out")
    subject = load_subject(str(inputs / "model"), device="cpu", dtype="float32")
    norms = []
    for line in (inputs / "stories" / "stories.jsonl").read_text().splitlines():
        ids = subject.tokenize(json.loads(line)["text"])
        norms.append(subject.residuals(torch.tensor([ids]), [1])[1][0, 1:].norm(dim=1))
    norm_N = torch.cat(norms)
    sae = load_sae(built.sae)
    assert sae.sink_norm == pytest.approx(5 * float(norm_N.median()), rel=1e-5)
    own = sae.metadata["saefeat"]
    assert own["sink_rule"] == f"5 x the median norm of {len(norm_N)} tokens of the stories"
    assert own["subject"] == subject.fingerprint.to_dict()
    assert own["source"]["directory"] == str(source.resolve())
    assert own["source"]["hook_name"] == "blocks.1.hook_resid_post"
    assert 8 < built.quality["l0"] <= 9


def test_the_model_is_the_one_that_the_files_name(inputs: Path, tmp_path: Path) -> None:
    source = from_sae_lens(tmp_path / "sae", "topk", model_name=str(inputs / "model"))
    built = build(config_of(inputs, source, model=""), tmp_path / "out")
    assert json.loads((built.sae / "manifest.json").read_text())["subject"]["name"] == str(inputs / "model")
    elsewhere = from_sae_lens(tmp_path / "other", "topk", model_name="gemma-2-2b")
    with pytest.raises(MissingModel, match=r"trained on gemma-2-2b.* saefeat model fetch google/gemma-2-2b, or pass"):
        build(config_of(inputs, elsewhere, model=""), tmp_path / "out2")
    assert not (tmp_path / "out2").exists()


def test_the_input_of_a_block_is_the_output_of_the_one_before(inputs: Path, tmp_path: Path) -> None:
    source = from_sae_lens(tmp_path / "sae", "topk", hook_name="blocks.2.hook_resid_pre")
    built = build(config_of(inputs, source), tmp_path / "out")
    assert load_sae(built.sae).name == "L1"


def test_another_layer_or_corpus_makes_it_anew_and_another_sae_is_refused(inputs: Path, tmp_path: Path) -> None:
    source = from_sae_lens(tmp_path / "sae", "topk", hook_name=None)
    config, out = config_of(inputs, source, layer=1), tmp_path / "out"
    build(config, out)
    before = load_sae(out / "sae")
    build(config_of(inputs, source, layer=2), out)
    after = load_sae(out / "sae")
    assert (before.name, after.name) == ("L1", "L2")
    assert before.sink_norm != after.sink_norm
    assert json.loads((out / "theirs" / "atlas.json").read_text())["saes"][0]["name"] == "L2"
    fewer = dataclasses.replace(config, label=dataclasses.replace(config.label, topics=("t01", "t02")))
    build(fewer, out)
    assert load_sae(out / "sae").sink_norm != before.sink_norm
    files = files_of(out)
    with pytest.raises(InputError, match="holds another SAE"):
        build(config_of(inputs, from_sae_lens(tmp_path / "other", "standard")), out)
    assert files_of(out) == files


@pytest.mark.parametrize(
    ("metadata", "layer", "message"),
    [
        ({"hook_name": "blocks.9.hook_resid_post"}, None, "has no layer 9"),
        ({"hook_name": "blocks.1.hook_mlp_out"}, None, "not the residual stream after a block"),
        ({"hook_name": None}, None, "pass --layer N"),
        ({}, 2, "reads layer 1, not 2"),
    ],
)
def test_what_does_not_fit_is_one_line_and_nothing_is_written(
    inputs: Path, tmp_path: Path, metadata: dict[str, Any], layer: int | None, message: str
) -> None:
    source = from_sae_lens(tmp_path / "sae", "topk", **metadata)
    with pytest.raises(InputError, match=message):
        build(config_of(inputs, source, layer=layer), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_of_another_width_is_refused(inputs: Path, tmp_path: Path) -> None:
    wide = tiny_subject(d_model=64)
    wide.model.save_pretrained(tmp_path / "wide")
    wide.tokenizer.save_pretrained(tmp_path / "wide")
    source = from_sae_lens(tmp_path / "sae", "topk")
    config = dataclasses.replace(
        config_of(inputs, source), sae=SaeConfig(from_=str(source), model=str(tmp_path / "wide"))
    )
    with pytest.raises(InputError, match=r"reads 32 dimensions, .* has 64"):
        build(config, tmp_path / "out")


def test_an_sae_that_explains_nothing_is_pointed_out(
    inputs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(SPARSIFY / "groupmax", tmp_path / "run")
    with caplog.at_level(logging.WARNING):
        built = build(config_of(inputs, tmp_path / "run" / "layers.1"), tmp_path / "out")
    assert built.quality["explained_variance"] < 0.2
    assert "is it an SAE of this model and layer?" in caplog.text


def test_a_centred_sae_reads_a_model_with_layer_norms_and_only_that(inputs: Path, tmp_path: Path) -> None:
    gpt2 = tiny_subject("gpt2")
    gpt2.model.save_pretrained(tmp_path / "gpt2")
    gpt2.tokenizer.save_pretrained(tmp_path / "gpt2")
    shutil.copytree(inputs / "stories", tmp_path / "stories")
    kwargs = {"center_writing_weights": True}
    source = from_sae_lens(tmp_path / "sae", "standard", model_from_pretrained_kwargs=kwargs)
    theirs, x_ND = read_foreign(str(source)).sae, torch.randn(9, D) + 3
    centred = load_sae(build(config_of(tmp_path, source, model="gpt2"), tmp_path / "a").sae)
    plain = load_sae(build(config_of(inputs, source), tmp_path / "b").sae)
    expected_NF = theirs.encode(x_ND - x_ND.mean(1, keepdim=True))
    torch.testing.assert_close(centred.encode(x_ND), expected_NF, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(plain.encode(x_ND), theirs.encode(x_ND))


def test_toml_names_an_sae_in_the_place_of_harvest_and_train(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[sae]\nfrom = "some/folder"\nlayer = 3\n')
    config = load_config(path)
    assert (config.sae.from_, config.sae.layer) == ("some/folder", 3)
    for toml, message in (
        ('[sae]\nfrom = "x"\n[train]\nk = 3\n', "in the place of"),
        ('[sae]\nfrom = "x"\n[harvest]\nlayers = [3]\n', "in the place of"),
        ("[sae]\nlayer = 3\n", "without sae.from"),
        ('[sae]\nform = "x"\n', "did you mean 'sae.from'"),
        ('[sae]\nfrom_ = "x"\n', "unknown setting"),
    ):
        path.write_text(toml)
        with pytest.raises(InputError, match=message):
            load_config(path)
    with pytest.raises(InputError, match="in the place of"):
        BuildConfig(sae=SaeConfig(from_="x"), harvest=HarvestConfig(layers=(1,)))
