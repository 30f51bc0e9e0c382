"""What saefeat writes sae-lens reads, and the other way round; damaged and foreign files are named as such."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from saefeat.errors import FormatError, InputError
from saefeat.sae import SAE, load_sae, save_sae

D, F = 16, 48


def make_sae(seed: int = 0) -> SAE:
    g = torch.Generator().manual_seed(seed)
    W_dec_FD = torch.randn(F, D, generator=g)
    cfg = {
        "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {"model_name": "tiny", "hook_name": "model.layers.1", "saefeat": {"sink_norm": 9.5}},
    }  # fmt: skip
    return SAE(
        W_enc_DF=W_dec_FD.T.contiguous(), b_enc_F=torch.randn(F, generator=g), W_dec_FD=W_dec_FD,
        b_dec_D=torch.randn(D, generator=g), threshold_F=torch.rand(F, generator=g), cfg=cfg,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_sae_lens_reads_ours_and_computes_the_same(tmp_path: Path, dtype: str) -> None:
    from sae_lens import SAE as LensSAE

    save_sae(make_sae(), tmp_path / "sae", dtype=dtype)
    ours, theirs = load_sae(tmp_path / "sae"), LensSAE.load_from_disk(str(tmp_path / "sae"))
    assert ours.name == "L1"
    assert ours.sink_norm == 9.5
    assert theirs.cfg.metadata.hook_name == "model.layers.1"
    assert theirs.cfg.metadata.saefeat == {"sink_norm": 9.5}
    x_ND = torch.randn(200, D, generator=torch.Generator().manual_seed(3)) * 2
    acts_NF, lens_NF = ours.encode(x_ND), theirs.encode(x_ND).detach()
    pre_NF = (x_ND - ours.b_dec_D) @ ours.W_enc_DF + ours.b_enc_F
    clear_NF = (pre_NF - ours.threshold_F).abs() > 1e-5
    assert torch.allclose(acts_NF[clear_NF], lens_NF[clear_NF], rtol=1e-4, atol=1e-6)
    assert torch.allclose(ours.decode(acts_NF), theirs.decode(acts_NF).detach(), rtol=1e-4, atol=1e-5)


def test_a_top_k_sae_of_sae_lens_is_read(tmp_path: Path) -> None:
    from sae_lens import SAE as LensSAE
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig

    TopKTrainingSAE(TopKTrainingSAEConfig(d_in=D, d_sae=F, k=4)).save_inference_model(str(tmp_path))
    ours, theirs = load_sae(tmp_path), LensSAE.load_from_disk(str(tmp_path))
    x_ND = torch.randn(50, D)
    assert torch.allclose(ours.encode(x_ND), theirs.encode(x_ND), rtol=1e-4, atol=1e-6)


def test_a_gated_sae_is_read_as_the_jumprelu_sae_it_equals(tmp_path: Path) -> None:
    from sae_lens import SAE as LensSAE
    from sae_lens import GatedTrainingSAE, GatedTrainingSAEConfig

    made = GatedTrainingSAE(GatedTrainingSAEConfig(d_in=D, d_sae=F))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    made.save_inference_model(str(tmp_path))
    ours, theirs = load_sae(tmp_path), LensSAE.load_from_disk(str(tmp_path))
    x_ND = torch.randn(50, D)
    acts_NF = ours.encode(x_ND)
    assert ours.architecture == "jumprelu"
    assert (ours.d_model, ours.n_features) == (D, F)
    assert (acts_NF > 0).any()
    torch.testing.assert_close(acts_NF, theirs.encode(x_ND))
    torch.testing.assert_close(ours.decode(acts_NF), theirs.decode(acts_NF))


def test_a_layer_normalised_sae_is_computed_as_sae_lens_does(tmp_path: Path) -> None:
    from sae_lens import SAE as LensSAE

    sae = make_sae()
    sae.cfg["normalize_activations"] = "layer_norm"
    save_sae(sae, tmp_path / "sae")
    ours, theirs = load_sae(tmp_path / "sae"), LensSAE.load_from_disk(str(tmp_path / "sae"))
    x_ND = torch.randn(50, D) * 7 + 1
    torch.testing.assert_close(ours.encode(x_ND), theirs.encode(x_ND))


@pytest.mark.parametrize(
    ("key", "value"),
    [("architecture", "transcoder"), ("architecture", "from_the_future"), ("reshape_activations", "hook_z"),
     ("normalize_activations", "expected_average_only_in")],
)  # fmt: skip
def test_what_cannot_be_read_faithfully_is_refused(tmp_path: Path, key: str, value: str) -> None:
    save_sae(make_sae(), tmp_path / "sae")
    rewrite(tmp_path / "sae" / "cfg.json", **{key: value})
    with pytest.raises(FormatError) as caught:
        load_sae(tmp_path / "sae")
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("hook", "layer"),
    [("model.layers.20", 20), ("blocks.7.hook_resid_post", 7), ("transformer.h.5.ln_2", 5), ("gpt_neox.layers.0", 0)],
)
def test_the_layer_is_the_block_of_the_hook_point(hook: str, layer: int) -> None:
    sae = make_sae()
    sae.cfg["metadata"]["hook_name"] = hook
    assert sae.layer == layer


def test_saving_replaces_an_sae_but_nothing_else(tmp_path: Path) -> None:
    save_sae(make_sae(), tmp_path / "sae")
    save_sae(make_sae(1), tmp_path / "sae")
    assert torch.equal(load_sae(tmp_path / "sae").b_enc_F, make_sae(1).b_enc_F)
    with pytest.raises(InputError, match="other files"):
        save_sae(make_sae(), tmp_path)
    with pytest.raises(InputError, match="dtype"):
        save_sae(make_sae(), tmp_path / "other", dtype="int8")
    assert [p.name for p in tmp_path.iterdir()] == ["sae"]


def rewrite(path: Path, **changed: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def damage(path: Path, how: str) -> None:
    cfg, weights = path / "cfg.json", path / "sae_weights.safetensors"
    if how == "no cfg":
        cfg.unlink()
    elif how == "cfg cut":
        cfg.write_text(cfg.read_text()[:40])
    elif how == "cfg is a list":
        cfg.write_text("[1, 2]")
    elif how == "weights cut":
        weights.write_bytes(weights.read_bytes()[:500])
    elif how == "no weights":
        weights.unlink()
    elif how == "no such folder":
        weights.unlink(), cfg.unlink(), path.rmdir()
    elif how == "a file":
        weights.unlink(), cfg.unlink(), path.rmdir()
        path.write_text("text")
    elif how == "no k":
        rewrite(cfg, architecture="topk")
    elif how == "version is text":
        rewrite(cfg, metadata={"saefeat": {"format_version": "two"}})
    elif how == "newer":
        rewrite(cfg, metadata={"saefeat": {"format_version": 99}})
    else:
        tensors = load_file(weights)
        if how == "nan":
            tensors["W_dec"][3, 4] = torch.nan
        elif how == "W_enc flat":
            tensors["W_enc"] = tensors["W_enc"].flatten()
        else:
            del tensors[how.removeprefix("no ")]
        save_file(tensors, weights)


HOWS = [
    "no cfg", "cfg cut", "cfg is a list", "weights cut", "no weights", "no such folder", "a file", "no k",
    "version is text", "newer", "nan", "W_enc flat", "no threshold", "no b_enc", "no W_enc",
]  # fmt: skip


@pytest.mark.parametrize("how", HOWS)
def test_damaged_files_are_the_users_error(tmp_path: Path, how: str) -> None:
    save_sae(make_sae(), tmp_path / "sae")
    damage(tmp_path / "sae", how)
    with pytest.raises(FormatError) as caught:
        load_sae(tmp_path / "sae")
    assert str(tmp_path) in str(caught.value)


def test_files_of_other_tools_may_lack_metadata(tmp_path: Path) -> None:
    save_sae(make_sae(), tmp_path / "sae")
    rewrite(tmp_path / "sae" / "cfg.json", metadata=None)
    assert load_sae(tmp_path / "sae").sink_norm is None


def test_shapes_must_fit(tmp_path: Path) -> None:
    sae = make_sae()
    sae.b_enc_F = torch.zeros(F + 1)
    save_sae(sae, tmp_path / "sae")
    with pytest.raises(FormatError, match="b_enc has shape"):
        load_sae(tmp_path / "sae")
