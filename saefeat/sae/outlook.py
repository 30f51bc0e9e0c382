"""What a training would take, and how far one has come, without starting it: nothing here writes."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from saefeat.config import TrainConfig
from saefeat.harvest import Source
from saefeat.sae.checkpoint import CHECKPOINT, start
from saefeat.sae.step import step
from saefeat.sae.train import _finished, _job, descend, nested_widths
from saefeat.subject import choose_dtype


def is_trained(source: Source, config: TrainConfig, out: Path) -> bool:
    """Whether `out` is the SAE that `train` would make. Raises InputError if it is anything else, as `train` would."""
    return _finished(_job(source, config, out, "cpu"))


def steps_done(out: Path) -> int:
    """The step of the last checkpoint of a training into `out`; 0 if there is none."""
    path = out.with_name(out.name + ".training") / CHECKPOINT
    try:
        with safe_open(path, "pt") as file:
            return int((file.metadata() or {})["step"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return 0


def step_seconds(config: TrainConfig, d_model: int, device: torch.device, *, seconds: float) -> float:
    """The median time of a real training step on random inputs, of as many as fit into `seconds`, at least two.

    Nothing is dead in so short a run: the auxiliary loss, where it sets in, comes on top.
    """
    chance = torch.Generator().manual_seed(0)
    state = start(config, torch.zeros(d_model), d_model, device)
    took: list[float] = []
    begun = time.perf_counter()
    while len(took) < 3 or time.perf_counter() - begun < seconds:
        x_ND = torch.randn(config.batch, d_model, generator=chance).to(device)
        before = time.perf_counter()
        result = step(
            state.params, x_ND, config.k, widths=nested_widths(config), compute=choose_dtype("auto", device)
        )  # fmt: skip
        descend(state, result.gradients, 1e-4)
        float(result.loss)  # waits for the device
        took.append(time.perf_counter() - before)
    return statistics.median(took[1:])  # the first one pays for what is allocated and compiled once
