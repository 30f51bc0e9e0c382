"""A subject as far as a plan needs it: loaded if it is on this machine, else by what is told of its size."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from saefeat.config import BuildConfig, HarvestConfig
from saefeat.errors import InputError, MissingModel
from saefeat.files import sha256_file
from saefeat.pipeline.speed import forward_speed, matmul_speed
from saefeat.subject import Subject, choose_device, choose_dtype, is_fetched, load_subject, recipe, recipes, resolve

SECONDS = 2.0
"""How long a speed is measured."""
CHARACTERS_A_TOKEN, UNKNOWN_VOCABULARY = 4.4, 100_000
FLOP_SHARE = 0.5
"""Of the speed of a large product, what a forward pass reaches (SmolLM2 on two cores: .4 to .6)."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A subject as far as a plan needs it; subject is None if its weights are not on this machine."""

    name: str
    d_model: int
    n_layers: int
    n_vocab: int
    itemsize: int
    device: torch.device
    subject: Subject | None

    def tokens(self, text: str) -> int:
        return len(self.subject.tokenize(text)) if self.subject else round(len(text) / CHARACTERS_A_TOKEN)

    def speed(self, layer: int, harvest: HarvestConfig) -> float:
        """Tokens a second to `layer`: measured, or by FLOPs."""
        if self.subject:
            return forward_speed(self.subject, layer, harvest.batch_contexts, harvest.context, budget=SECONDS)
        dtype = torch.bfloat16 if self.itemsize == 2 else torch.float32
        flops = FLOP_SHARE * matmul_speed(self.d_model, dtype, self.device, budget=SECONDS)
        return flops / (24 * self.d_model**2 * (layer + 1))  # a block has about 12 D^2 weights


def shape_of(config: BuildConfig) -> tuple[Shape, list[str]]:
    """The subject's shape, loaded if it is here; else from its config.json or its recipe, with a note that says so."""
    settings = config.subject
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    path = Path(settings.model).expanduser()
    if path.suffix == ".gguf" and path.is_file() and not is_fetched(f"gguf-{sha256_file(path)[:16]}"):
        what = "was not converted yet, which a dry run does not do"
        raise InputError(what, where=path, do="run a harvest or the build once")
    try:
        directory = resolve(settings.model)
        if any(directory.glob("*.safetensors")):
            return loaded_shape(load_subject(settings.model, device=settings.device, dtype=settings.dtype)), []
        told = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        told = told.get("text_config", told)
        D, n = int(told["hidden_size"]), int(told["num_hidden_layers"])
    except MissingModel:
        if settings.model not in [one.name for one in recipes()]:
            raise
        D, n = _told_size(recipe(settings.model).about)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"has no config.json that tells its size ({error})", where=settings.model) from error
    note = f"the weights of {settings.model} are not on this machine: times are by FLOPs, tokens by characters"
    shape = Shape(
        name=settings.model,
        d_model=D,
        n_layers=n,
        n_vocab=UNKNOWN_VOCABULARY,
        itemsize=dtype.itemsize,
        device=device,
        subject=None,
    )
    return shape, [note]


def _told_size(about: str) -> tuple[int, int]:
    """(D, layers) of a recipe's words, '30 × 576, …'."""
    match = re.match(r"(\d+) × (\d+)", about)
    assert match is not None, about
    return int(match[2]), int(match[1])


def loaded_shape(subject: Subject) -> Shape:
    return Shape(
        name=subject.name,
        d_model=subject.d_model,
        n_layers=subject.n_layers,
        n_vocab=subject.n_vocab,
        itemsize=subject.dtype.itemsize,
        device=subject.device,
        subject=subject,
    )
