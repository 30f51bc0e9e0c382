"""What a killed run needs to continue as if nothing had happened: the state of training, to disk and back."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from saefeat.config import TrainConfig
from saefeat.errors import FormatError, InputError
from saefeat.files import atomic_path
from saefeat.harvest import Position, Ranks
from saefeat.sae.step import Params

DECODER_NORM = 0.1
CHECKPOINT = "checkpoint.safetensors"


@dataclass
class State:
    """Everything that changes while an SAE is trained, and the scale of its inputs."""

    params: Params
    adam: torch.optim.Adam
    threshold: float
    silent_F: Tensor
    """Tokens since each feature fired."""
    fired_F: Tensor
    """How often each feature fired in the whole run."""
    step: int
    scale: float = math.nan
    """What inputs are multiplied by; NaN until it is known."""
    positions: list[Position] | None = None
    """Where the feed of each process goes on; None at the beginning."""


def start(config: TrainConfig, mean_D: Tensor, d_model: int, device: torch.device | str = "cpu") -> State:
    """Random unit decoder directions scaled to norm 0.1, the encoder their transpose, biases zero and the mean."""
    generator = torch.Generator().manual_seed(config.seed)
    W_FD = torch.randn(config.features, d_model, generator=generator)
    W_FD *= DECODER_NORM / W_FD.norm(dim=1, keepdim=True)
    params = Params(*(t.to(device) for t in (W_FD.clone(), torch.zeros(config.features), W_FD, mean_D.clone())))
    adam = torch.optim.Adam(params, lr=peak_rate(config), betas=(0.9, 0.999), fused=True)
    zeros_F = torch.zeros(config.features, dtype=torch.int64, device=device)
    return State(params, adam, 0.0, zeros_F, zeros_F.clone(), 0)


def peak_rate(config: TrainConfig) -> float:
    """The peak Adam rate: given, or proportional to 1/sqrt(width)."""
    return config.lr if config.lr is not None else 4e-4 / math.sqrt(config.features / 2**14)


# ---------------------------------------------------------------- to disk and back
def checkpoint(state: State, work: Path, inputs: str) -> None:
    """Write the state atomically as one safetensors file."""
    tensors = {name: value.contiguous() for name, value in tensors_of(state).items()}
    tensors["threshold"] = torch.tensor(state.threshold, dtype=torch.float64)
    tensors["scale"] = torch.tensor(state.scale, dtype=torch.float64)
    if state.positions:
        tensors["positions"] = torch.tensor(state.positions)
    metadata = {"step": str(state.step), "inputs": inputs}
    with atomic_path(work / CHECKPOINT) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def resume(state: State, work: Path, inputs: str) -> None:
    """Bring `state` to the last checkpoint, if there is one of the same inputs; metrics after it are cut off.

    Raises InputError if the checkpoint is another run's, FormatError if it is damaged.
    """
    path, metrics = work / CHECKPOINT, work / "metrics.jsonl"
    for orphan in work.glob(".*.tmp"):  # of a run that was killed while it wrote; the lock says nobody writes now
        orphan.unlink()
    if path.exists():
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("inputs") != inputs:
                    do = "remove it or choose another --out"
                    raise InputError("holds a run of other settings", where=work, do=do)
                _restore(state, {name: file.get_tensor(name) for name in file.keys()}, int(metadata["step"]))  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
            raise FormatError(f"is no checkpoint of this saefeat ({error})", where=path, do="remove it") from error
    if metrics.exists():
        kept = [line for line in metrics.read_text("utf-8").splitlines() if _step_of(line) <= state.step]
        with atomic_path(metrics) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def tensors_of(state: State) -> dict[str, Tensor]:
    """The tensors of a state by name: counts, weights, and the moments of Adam, once it has made a step."""
    tensors = {"silent": state.silent_F, "fired": state.fired_F}
    for name, tensor in zip(Params._fields, state.params, strict=True):
        tensors[name] = tensor
        if moments := state.adam.state.get(tensor):
            names = {"m": "exp_avg", "v": "exp_avg_sq", "t": "step"}
            tensors |= {f"{name}.{short}": moments[long] for short, long in names.items()}
    return tensors


def _restore(state: State, tensors: dict[str, Tensor], step: int) -> None:
    device = state.silent_F.device
    for name, tensor in zip(Params._fields, state.params, strict=True):
        tensor.copy_(tensors[name])
        state.adam.state[tensor] = {
            "step": tensors[f"{name}.t"].to(device), "exp_avg": tensors[f"{name}.m"].to(device),
            "exp_avg_sq": tensors[f"{name}.v"].to(device),
        }  # fmt: skip
    state.silent_F, state.fired_F = tensors["silent"].to(device), tensors["fired"].to(device)
    state.threshold, state.step = float(tensors["threshold"]), step
    if "scale" in tensors:  # older checkpoints are without: it is computed again, and the feed counts batches
        state.scale = float(tensors["scale"])
    positions = tensors["positions"].tolist() if "positions" in tensors else [(step, 0, 0)]
    state.positions = [(a, b, c) for a, b, c in positions]


def share(state: State, ranks: Ranks) -> None:
    """Every process continues with the first one's state."""
    if ranks.size == 1:
        return
    known = state.positions or []
    numbers = torch.tensor([state.threshold, state.scale, state.step, len(known)], dtype=torch.float64)
    ranks.copy([numbers])
    state.threshold, state.scale = numbers[:2].tolist()
    state.step, n = map(int, numbers[2:].tolist())
    positions = torch.tensor(known if ranks.first and known else [[0, 0, 0]] * n, dtype=torch.int64).reshape(n, 3)
    ranks.copy([positions])
    state.positions = [(a, b, c) for a, b, c in positions.tolist()] or None
    if state.step and not ranks.first:
        for tensor in (tensor for tensor in state.params if tensor not in state.adam.state):
            zeros = {"exp_avg": torch.zeros_like(tensor), "exp_avg_sq": torch.zeros_like(tensor)}
            state.adam.state[tensor] = {"step": torch.zeros((), device=tensor.device), **zeros}
    ranks.copy(list(tensors_of(state).values()))


def _step_of(line: str) -> float:
    """The step of a metrics line; infinity for one that a kill cut in the middle."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
