"""What saefeat writes sae-lens reads, and the other way round; damaged and foreign files are named as such."""

import json
from pathlib import Path

import pytest
import torch

from saefeat.errors import FormatError
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


def damage(path: Path, how: str) -> None:
    cfg, weights = path / "cfg.json", path / "sae_weights.safetensors"
    if how == "no cfg":
        cfg.unlink()
    elif how == "cfg cut":
        cfg.write_text(cfg.read_text()[:40])
    elif how == "weights cut":
        weights.write_bytes(weights.read_bytes()[:500])
    elif how == "no weights":
        weights.unlink()
    else:
        value = json.loads(cfg.read_text())
        value["metadata"]["saefeat"]["format_version"] = 99
        cfg.write_text(json.dumps(value))


@pytest.mark.parametrize("how", ["no cfg", "cfg cut", "weights cut", "no weights", "newer"])
def test_damaged_files_are_the_users_error(tmp_path: Path, how: str) -> None:
    save_sae(make_sae(), tmp_path / "sae")
    damage(tmp_path / "sae", how)
    with pytest.raises(FormatError) as caught:
        load_sae(tmp_path / "sae")
    assert str(tmp_path) in str(caught.value)


def test_shapes_must_fit(tmp_path: Path) -> None:
    sae = make_sae()
    sae.b_enc_F = torch.zeros(F + 1)
    save_sae(sae, tmp_path / "sae")
    with pytest.raises(FormatError, match="b_enc has shape"):
        load_sae(tmp_path / "sae")
