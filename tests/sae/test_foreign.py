"""SAEs of SAELens and sparsify, written by SAELens and sparsify, are read as they mean themselves."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from saefeat.errors import FormatError, InputError, UnknownName
from saefeat.sae import SAE, block_of, identity, load_sae, read_foreign, write_foreign
from saefeat.sae.architectures import reading_uncentred

D, F = 16, 48
SPARSIFY = Path(__file__).parents[1] / "data" / "sparsify"
HOOK = "blocks.3.hook_resid_post"


def metadata(**more: Any) -> Any:
    from sae_lens.saes.sae import SAEMetadata

    return SAEMetadata(model_name="some-model", hook_name=HOOK, prepend_bos=False, **more)


def shaken(sae: Any) -> Any:
    """Weights as after training: nothing is zero, nothing is a transpose of something else."""
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return sae


def written(architecture: str, path: Path, **metadata_more: Any) -> Any:
    """An SAE of sae-lens' own class, saved by sae-lens for inference; what sae-lens itself loads from there."""
    import sae_lens as sl
    from sae_lens import SAE as LensSAE

    torch.manual_seed(5)
    shape = {"d_in": D, "d_sae": F, "metadata": metadata(**metadata_more)}
    makers = {
        "standard": lambda: sl.StandardTrainingSAE(sl.StandardTrainingSAEConfig(**shape)),
        "jumprelu": lambda: sl.JumpReLUTrainingSAE(sl.JumpReLUTrainingSAEConfig(**shape)),
        "gated": lambda: sl.GatedTrainingSAE(sl.GatedTrainingSAEConfig(**shape)),
        "topk": lambda: sl.TopKTrainingSAE(sl.TopKTrainingSAEConfig(k=5, **shape)),
        "batchtopk": lambda: sl.BatchTopKTrainingSAE(sl.BatchTopKTrainingSAEConfig(k=5, **shape)),
        "matryoshka": lambda: sl.MatryoshkaBatchTopKTrainingSAE(
            sl.MatryoshkaBatchTopKTrainingSAEConfig(k=5, matryoshka_widths=[12, F], **shape)
        ),
    }
    made = shaken(makers[architecture]())
    if hasattr(made, "topk_threshold"):
        made.topk_threshold.fill_(0.9)
    made.save_inference_model(str(path))
    if architecture in ("batchtopk", "matryoshka"):
        made.save_model(str(path.with_name(path.name + "-checkpoint")))
    return LensSAE.load_from_disk(str(path))


def vectors() -> torch.Tensor:
    return 2 * torch.randn(64, D, generator=torch.Generator().manual_seed(1))


ARCHITECTURES = ["standard", "jumprelu", "gated", "topk", "batchtopk", "matryoshka"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sae_lens_folders_are_computed_as_sae_lens_does(tmp_path: Path, architecture: str) -> None:
    theirs, x_ND = written(architecture, tmp_path / "sae"), vectors()
    foreign = read_foreign(str(tmp_path / "sae"))
    assert (foreign.layer, foreign.model, foreign.dtype) == (3, "some-model", "float32")
    acts_NF = foreign.sae.encode(x_ND)
    assert 0 < (acts_NF > 0).float().mean() < 0.9
    torch.testing.assert_close(acts_NF, theirs.encode(x_ND).detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(foreign.sae.decode(acts_NF), theirs.decode(acts_NF).detach(), rtol=1e-4, atol=1e-5)
    assert type(foreign.sae) is SAE  # so that a query needs no sae-lens


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka"])
def test_a_training_checkpoint_is_what_sae_lens_makes_of_it(tmp_path: Path, architecture: str) -> None:
    theirs, x_ND = written(architecture, tmp_path / "sae"), vectors()
    ours = read_foreign(str(tmp_path / "sae-checkpoint")).sae
    acts_NF = ours.encode(x_ND)
    torch.testing.assert_close(acts_NF, theirs.encode(x_ND).detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.decode(acts_NF), theirs.decode(acts_NF).detach(), rtol=1e-4, atol=1e-5)


def test_what_only_sae_lens_computes_is_kept_in_its_own_words(tmp_path: Path) -> None:
    from sae_lens import SAE as LensSAE

    written("jumprelu", tmp_path / "sae")
    rewrite(tmp_path / "sae" / "cfg.json", normalize_activations="layer_norm")
    foreign, x_ND = read_foreign(str(tmp_path / "sae")), vectors() * 3 + 1
    (tmp_path / "kept").mkdir()
    write_foreign(foreign, foreign.sae, tmp_path / "kept", metadata={"hook_name": "model.layers.3"}, header="x")
    kept, theirs = load_sae(tmp_path / "kept"), LensSAE.load_from_disk(str(tmp_path / "sae"))
    assert kept.hook_point == "model.layers.3"
    torch.testing.assert_close(kept.encode(x_ND), theirs.encode(x_ND).detach())


@pytest.mark.parametrize("run", ["topk", "groupmax"])
def test_sparsify_folders_are_computed_as_sparsify_does(run: str) -> None:
    expected = load_file(SPARSIFY / run / "expected.safetensors")
    foreign = read_foreign(str(SPARSIFY / run / "layers.1"))
    assert (foreign.layer, foreign.model) == (1, "tiny-organisation/tiny-llama")
    assert foreign.dtype == ("bfloat16" if run == "topk" else "float32")
    acts_NF = foreign.sae.encode(expected["x"])
    assert (acts_NF > 0).sum(1).max() == 4
    torch.testing.assert_close(acts_NF, expected["acts"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(foreign.sae.decode(acts_NF), expected["xhat"], rtol=1e-5, atol=1e-6)


def test_a_folder_is_kept_in_its_own_precision_and_reads_back_the_same(tmp_path: Path) -> None:
    foreign = read_foreign(str(SPARSIFY / "topk" / "layers.1"))
    write_foreign(foreign, foreign.sae, tmp_path, metadata={"saefeat": {"sink_norm": 7.0}}, header="a")
    kept = load_sae(tmp_path)
    assert load_file(tmp_path / "sae_weights.safetensors")["W_enc"].dtype == torch.bfloat16
    assert torch.equal(kept.W_enc_DF, foreign.sae.W_enc_DF)
    assert kept.sink_norm == 7.0
    other = tmp_path / "other"
    other.mkdir()
    write_foreign(foreign, foreign.sae, other, metadata={}, header="b")
    assert identity(str(other))["sha256"] != identity(str(tmp_path))["sha256"]


@pytest.mark.parametrize("given", ["folder of one seed", "no run config", "a run config that is a list"])
def test_sparsify_runs_of_other_shapes(tmp_path: Path, given: str) -> None:
    inside = tmp_path / "layers.7" / "seed2" if given == "folder of one seed" else tmp_path / "layers.7"
    shutil.copytree(SPARSIFY / "topk" / "layers.1", inside)
    if given == "a run config that is a list":
        (tmp_path / "config.json").write_text("[]")
    foreign = read_foreign(str(inside))
    assert (foreign.layer, foreign.model) == (7, "")


def test_an_sae_of_a_centred_stream_is_folded_for_the_uncentred_one(tmp_path: Path) -> None:
    theirs = written("jumprelu", tmp_path / "sae", model_from_pretrained_kwargs={"center_writing_weights": True})
    foreign, x_ND = read_foreign(str(tmp_path / "sae")), vectors() + 5
    assert foreign.centred
    centred_ND = x_ND - x_ND.mean(1, keepdim=True)
    expected_NF = theirs.encode(centred_ND).detach()
    torch.testing.assert_close(foreign.uncentred().encode(x_ND), expected_NF, rtol=1e-3, atol=1e-3)
    twice = reading_uncentred(foreign.uncentred())
    torch.testing.assert_close(twice.encode(x_ND), expected_NF, rtol=1e-3, atol=1e-3)


# ---------------------------------------------------------------- SAELens before version 6
def test_cfgs_of_older_releases_are_understood(tmp_path: Path) -> None:
    from sae_lens import SAE as LensSAE

    written("topk", tmp_path / "sae")
    old = {
        "d_in": D, "d_sae": F, "dtype": "float32", "device": "cpu", "architecture": "standard",
        "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 5}, "apply_b_dec_to_input": True,
        "normalize_activations": "none", "model_name": "gpt2-small", "hook_point": "blocks.4.hook_resid_pre",
        "finetuning_scaling_factor": False,
    }  # fmt: skip
    (tmp_path / "sae" / "cfg.json").write_text(json.dumps(old))
    foreign, x_ND = read_foreign(str(tmp_path / "sae")), vectors()
    assert (foreign.layer, foreign.model, foreign.sae.architecture) == (3, "gpt2-small", "topk")
    theirs = LensSAE.load_from_disk(str(tmp_path / "sae"))
    torch.testing.assert_close(foreign.sae.encode(x_ND), theirs.encode(x_ND).detach(), rtol=1e-4, atol=1e-5)
    assert load_sae(tmp_path / "sae").k == 5

    for key, value, message in (
        ("activation_fn_str", "tanh-relu", "activation is 'tanh-relu'"),
        ("finetuning_scaling_factor", True, "learned factor"),
        ("normalize_activations", True, "not folded"),
    ):
        (tmp_path / "sae" / "cfg.json").write_text(json.dumps(old | {key: value}))
        with pytest.raises(FormatError, match=message):
            read_foreign(str(tmp_path / "sae"))


# ---------------------------------------------------------------- where it reads
@pytest.mark.parametrize(
    ("hook", "block"),
    [
        ("blocks.20.hook_resid_post", 20), ("blocks.20.hook_resid_pre", 19), ("model.layers.20", 20),
        ("model.layers.20.output", 20), ("layers.20", 20), ("layers_20", 20), ("transformer.h.5", 5), ("h.5", 5),
        ("gpt_neox.layers.0", 0), ("model.language_model.layers.3", 3), ("blocks.0.hook_resid_pre", None),
        ("blocks.3.hook_mlp_out", None), ("blocks.3.hook_resid_mid", None), ("layers.3.mlp", None),
        ("blocks.3.attn.hook_z", None), ("transformer.h.5.ln_2", None), ("embed_tokens", None), ("", None),
    ],
)  # fmt: skip
def test_hook_points_are_blocks_or_nothing(hook: str, block: int | None) -> None:
    assert block_of(hook) == block


@pytest.mark.parametrize("hook", ["blocks.3.hook_mlp_out", "blocks.0.hook_resid_pre", "blocks.3.attn.hook_z"])
def test_what_is_no_residual_stream_is_refused_even_with_a_layer(tmp_path: Path, hook: str) -> None:
    written("standard", tmp_path / "sae")
    rewrite(tmp_path / "sae" / "cfg.json", metadata={"hook_name": hook, "sae_lens_version": "6.0.0"})
    with pytest.raises(InputError, match="not the residual stream after a block"):
        read_foreign(str(tmp_path / "sae"), layer=3)


def test_a_layer_stands_in_for_a_hook_point_that_is_not_told(tmp_path: Path) -> None:
    written("standard", tmp_path / "sae")
    with pytest.raises(InputError, match="reads layer 3, not 4"):
        read_foreign(str(tmp_path / "sae"), layer=4)
    rewrite(tmp_path / "sae" / "cfg.json", metadata={"sae_lens_version": "6.0.0"})
    with pytest.raises(InputError, match="does not say which block"):
        read_foreign(str(tmp_path / "sae"))
    assert read_foreign(str(tmp_path / "sae"), layer=4).layer == 4


# ---------------------------------------------------------------- refused
def rewrite(path: Path, **changed: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"normalize_activations": "expected_average_only_in"}, "normalisation 'expected_average_only_in' is not"),
        ({"normalize_activations": "covariance_whitening"}, "normalisation 'covariance_whitening' is not"),
        ({"reshape_activations": "hook_z"}, "reshaped by 'hook_z'"),
        ({"architecture": "transcoder"}, "a transcoder"),
        ({"architecture": "temporal"}, "a temporal SAE"),
        ({"architecture": "abstopk"}, "negative activations"),
        ({"architecture": "from_the_future"}, "sae-lens cannot read it"),
    ],
)
def test_what_cannot_be_read_faithfully_is_refused_in_a_word(tmp_path: Path, changed: dict, message: str) -> None:
    written("standard", tmp_path / "sae")
    rewrite(tmp_path / "sae" / "cfg.json", **changed)
    with pytest.raises(FormatError, match=message):
        read_foreign(str(tmp_path / "sae"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"transcode": True}, "is a transcoder"), ({"skip_connection": True}, "skip connection"),
        ({"activation": "relu"}, "has the activation 'relu'"), ({"signed": True}, "signed"),
        ({"k": 0}, "with k 0"), ({"k": 5, "activation": "groupmax"}, "do not make 5 groups"),
        ({"d_in": 33}, "other than 33 dimensions"),
    ],
)  # fmt: skip
def test_sparsify_coders_that_are_no_residual_saes_are_refused(tmp_path: Path, changed: dict, message: str) -> None:
    shutil.copytree(SPARSIFY / "topk" / "layers.1", tmp_path / "layers.1")
    rewrite(tmp_path / "layers.1" / "cfg.json", **changed)
    with pytest.raises(FormatError, match=message):
        read_foreign(str(tmp_path / "layers.1"))


def test_a_real_transcoder_is_refused() -> None:
    with pytest.raises(InputError, match="transcoder"):
        read_foreign(str(SPARSIFY / "transcoder" / "layers.1.mlp"))


def test_damaged_sparsify_files_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "layers.1"
    shutil.copytree(SPARSIFY / "topk" / "layers.1", folder)
    whole = (folder / "sae.safetensors").read_bytes()
    (folder / "sae.safetensors").write_bytes(whole[:300])
    with pytest.raises(FormatError, match="cannot be read"):
        read_foreign(str(folder))
    (folder / "sae.safetensors").write_bytes(whole)
    tensors = load_file(folder / "sae.safetensors")
    del tensors["b_dec"]
    save_file(tensors, folder / "sae.safetensors")
    with pytest.raises(FormatError, match="has no b_dec"):
        read_foreign(str(folder))
    (folder / "cfg.json").write_text("[]")
    with pytest.raises(FormatError, match="not that of a sparsify SAE"):
        read_foreign(str(folder))


def test_a_folder_that_is_none_says_what_lies_in_it(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"is no SAE \(no cfg.json"):
        read_foreign(str(tmp_path))
    with pytest.raises(FormatError, match=r"name one of layers\.1 in it"):
        read_foreign(str(SPARSIFY / "topk"))
    with pytest.raises(InputError, match="no such SAE"):
        read_foreign(str(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("")
    with pytest.raises(FormatError, match="is a file"):
        read_foreign(str(tmp_path / "file"))
    with pytest.raises(FormatError, match="saefeat build --sae"):
        load_sae(SPARSIFY / "topk" / "layers.1")


# ---------------------------------------------------------------- releases
def test_releases_are_names_of_saelens_list() -> None:
    from saefeat.sae.lens import hub_name, split_release

    assert split_release("gemma-scope-2b-pt-res-canonical/layer_20/width_16k/canonical") == (
        "gemma-scope-2b-pt-res-canonical",
        "layer_20/width_16k/canonical",
    )
    assert split_release("someone/her-saes/blocks.3/x") == ("someone/her-saes", "blocks.3/x")
    with pytest.raises(UnknownName, match="did you mean"):
        split_release("gemma-scope-2b-pt-res-canonica/layer_20")
    with pytest.raises(UnknownName, match="layer_99"):
        split_release("gemma-scope-2b-pt-res-canonical/layer_99/width_16k/canonical")
    assert hub_name("gemma-2-2b") == "google/gemma-2-2b"
    assert hub_name("never-heard-of") == "never-heard-of"


def test_without_a_network_a_release_is_one_clear_error() -> None:
    with pytest.raises(InputError, match="cannot be fetched by sae-lens") as caught:
        read_foreign("gemma-scope-2b-pt-res-canonical/layer_20/width_16k/canonical")
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def test_a_release_in_the_hubs_cache_is_read_without_a_network(tmp_path: Path, monkeypatch: Any) -> None:
    """The cache is laid out as huggingface_hub lays it out; sae-lens' own loader does the rest."""
    import huggingface_hub.constants

    theirs = written("gated", tmp_path / "sae")
    repository = tmp_path / "cache" / "models--someone--saes"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(tmp_path / "sae", repository / "snapshots" / ("0" * 40) / "blocks.3")
    missing = repository / ".no_exist" / ("0" * 40) / "blocks.3"
    missing.mkdir(parents=True)
    (missing / "sparsity.safetensors").touch()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    foreign, x_ND = read_foreign("someone/saes/blocks.3"), vectors()
    assert (foreign.layer, foreign.source) == (3, {"release": "someone/saes/blocks.3"})
    torch.testing.assert_close(foreign.sae.encode(x_ND), theirs.encode(x_ND).detach(), rtol=1e-4, atol=1e-5)
