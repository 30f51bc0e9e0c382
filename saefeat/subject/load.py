"""From a name to a loaded subject: a recipe, a HF directory, a GGUF file, or a HF id that is already on this machine.

Nothing here touches the network.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

import torch

from saefeat.errors import FormatError, InputError, MissingModel
from saefeat.files import fingerprint, home, sha256_file
from saefeat.subject.convert import MANIFEST, convert_gguf, converted_fingerprint, is_whole, quiet_transformers
from saefeat.subject.model import Subject
from saefeat.subject.registry import RECIPES, model_directory

SAMPLES, SAMPLE_BYTES = 256, 4096


def load_subject(name: str, *, device: str = "auto", dtype: str = "auto") -> Subject:
    """Load the language model `name`: a recipe of `recipes()`, a HF directory, a .gguf file, or a HF id.

    device: auto (CUDA if present), cpu, cuda, cuda:1, mps. dtype: auto, bfloat16, float32; auto is bfloat16 where
    the machine multiplies it fast. A HF id is taken from the local cache only. Raises MissingModel, saying which
    command fetches it; FormatError if the files are damaged; InputError for an unusable device.
    """
    place = choose_device(device)
    precision = choose_dtype(dtype, place)
    directory = resolve(name)
    weights = weights_fingerprint(directory)
    try:
        model, tokenizer = _from_pretrained(directory, precision)
    except MemoryError as error:
        raise InputError("does not fit into memory", where=name, do="use a smaller model") from error
    except Exception as error:  # a damaged directory fails in a dozen ways inside transformers and safetensors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        do = f"fetch it again: saefeat model fetch {name}" if _is_recipe(name) else "check the files"
        raise FormatError(f"cannot be loaded as a causal language model ({reason})", where=directory, do=do) from error
    return Subject(name, model.to(place), tokenizer, weights=weights)


def _from_pretrained(directory: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(
            directory, dtype=dtype, attn_implementation="sdpa", local_files_only=True, use_safetensors=True
        )
        return model, AutoTokenizer.from_pretrained(directory, local_files_only=True)


def _is_recipe(name: str) -> bool:
    return any(known.name == name for known in RECIPES)


def resolve(name: str) -> Path:
    """The HF directory that `name` stands for; a .gguf file is converted first, once. Raises MissingModel."""
    path = Path(name).expanduser()
    if _is_recipe(name):
        directory = model_directory(name)
        if not is_whole(directory):
            raise MissingModel(f"{name} is not on this machine", do=f"run: saefeat model fetch {name}")
        return directory
    if path.suffix == ".gguf":
        if not path.is_file():
            raise MissingModel("no such file", where=path)
        digest = sha256_file(path)
        directory = home() / "models" / f"gguf-{digest[:16]}"
        return directory if is_whole(directory) else convert_gguf(path, directory, sha256=digest)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FormatError("is not a HF model directory (no config.json)", where=path)
        return path
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _cached(name)
    known = ", ".join(known.name for known in RECIPES)
    do = f"use one of {known}, a HF directory, a .gguf file, or ORGANISATION/NAME"
    raise MissingModel(f"no model is called {name!r}", do=do)


def _cached(hf_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hf_id, local_files_only=True))
    except (LocalEntryNotFoundError, FileNotFoundError) as error:
        raise MissingModel(f"{hf_id} is not on this machine", do=f"run: saefeat model fetch {hf_id}") from error
    except HFValidationError as error:
        raise MissingModel(f"{hf_id!r} is no HF id", do="write ORGANISATION/NAME") from error


# ---------------------------------------------------------------- identity
def weights_fingerprint(directory: Path) -> str:
    """16 hex digits for the weights in a HF directory, in milliseconds.

    For a model converted by saefeat it covers every byte of the GGUF file it came from. For any other directory it
    covers, of every safetensors file, the size, the header (names, shapes, dtypes, offsets) and 256 evenly spread
    blocks of 4 KiB: a fine-tune or another checkpoint differs, a change of a few single weights may not.
    """
    if (directory / MANIFEST).is_file():
        return converted_fingerprint(directory)
    parts = sorted(directory.glob("*.safetensors"))
    if not parts:
        raise FormatError("holds no .safetensors weights", where=directory, do="convert them to safetensors first")
    return fingerprint([_sampled_hash(path) for path in parts])


def _sampled_hash(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        digest.update(head + file.read(min(length, 100_000_000)))
        for i in range(SAMPLES):
            file.seek(size * i // SAMPLES)
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


# ---------------------------------------------------------------- where and how to compute
def choose_device(device: str) -> torch.device:
    """The torch device for `device`. Raises InputError if this machine does not have it."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"unknown device {device!r}", do="use auto, cpu, cuda, cuda:1 or mps") from error
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (place.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(place.type, False):
        raise InputError(f"this machine, or this build of torch, has no device {device!r}", do="use auto or cpu")
    return place


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The torch dtype for `dtype`; auto: bfloat16 where `device` multiplies it in hardware, else float32."""
    known = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    if dtype in known:
        return known[dtype]
    if dtype != "auto":
        raise InputError(f"unknown dtype {dtype!r}", do="use auto, bfloat16 or float32")
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere
    else:
        fast = device.type == "cpu" and cpu_has_bf16()
    return torch.bfloat16 if fast else torch.float32


def cpu_has_bf16() -> bool:
    """Whether this CPU has bfloat16 dot products (AVX512-BF16 or AMX)."""
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    if probe is not None and probe():
        return True
    try:
        flags = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:  # not Linux
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
