"""GGUF to a HF directory, once: dequantising takes many seconds, loading the result about one.

The weights are stored in bfloat16. They come from 4 to 6 bits each, so little is lost, and a bfloat16 and a float32
run of the same model then multiply by exactly the same numbers.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from saefeat.errors import FormatError
from saefeat.files import atomic_directory, fingerprint, read_json, require_disk, sha256_file, write_json

log = logging.getLogger(__name__)
FORMAT, VERSION, MANIFEST = "saefeat-model", 1, "saefeat-model.json"


def convert_gguf(gguf: Path, out: Path, *, sha256: str | None = None, source: dict[str, Any] | None = None) -> Path:
    """Convert a GGUF file into a HF directory `out`: config, bfloat16 safetensors, tokenizer, chat template.

    The directory appears whole or not at all. Its manifest names the GGUF file's SHA-256, `source`, and the size of
    every file. Raises FormatError if transformers cannot read the file.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    digest = sha256 or sha256_file(gguf)
    require_disk(out, 4 * gguf.stat().st_size)
    log.info("converting %s (once)", gguf.name)
    try:
        where, file = str(gguf.parent), gguf.name
        with quiet_transformers():
            model: Any = AutoModelForCausalLM.from_pretrained(where, gguf_file=file, dtype=torch.float32)
            tokenizer: Any = AutoTokenizer.from_pretrained(where, gguf_file=file)
    except Exception as error:  # a damaged or unknown file fails in a dozen ways
        raise FormatError(f"transformers cannot read this GGUF file ({error})", where=gguf) from error
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the weights below are not quantised any more
    config.dtype = torch.bfloat16
    config.architectures = [type(model).__name__]
    tied = {"lm_head.weight"} if config.get_text_config().tie_word_embeddings else set()
    weights = {n: t.to(torch.bfloat16).contiguous() for n, t in model.state_dict().items() if n not in tied}
    with atomic_directory(out) as directory:
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        (directory / "model.safetensors").chmod(0o644)  # safetensors makes it readable to its owner alone
        config.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        sizes = {path.name: path.stat().st_size for path in sorted(directory.iterdir())}
        manifest = {"format": FORMAT, "format_version": VERSION, "gguf_sha256": digest, "dtype": "bfloat16"}
        write_json(directory / MANIFEST, {**manifest, "source": source or {"file": gguf.name}, "sizes": sizes})
    return out


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from drawing progress bars and writing advice to stderr."""
    from transformers.utils import logging as hf_logging

    bars, level = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the GGUF reader's bar has no switch
            yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a converted model. Raises FormatError."""
    return read_json(directory / MANIFEST, kind=FORMAT, version=VERSION)


def is_whole(directory: Path) -> bool:
    """Whether `directory` is a converted model with every file of the size it was written with."""
    try:
        sizes = read_manifest(directory)["sizes"]
        return all((directory / name).stat().st_size == size for name, size in sizes.items())
    except (FormatError, KeyError, OSError, AttributeError):
        return False


def converted_fingerprint(directory: Path) -> str:
    """The weights' fingerprint of a converted model: of the whole GGUF file it came from, and the storage dtype."""
    manifest = read_manifest(directory)
    return fingerprint({"gguf": manifest["gguf_sha256"], "dtype": manifest["dtype"]})
