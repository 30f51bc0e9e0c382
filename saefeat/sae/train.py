"""The training loop: batches in, SAE folders out, continued exactly after a kill.

Batches come from a harvest or from the running model (`Source`). Several SAEs can be trained side by side, each on the
same batches of its layer; several processes can share every batch. Inputs are scaled to E|x|^2 = D; the decoder bias
starts at their mean. The inference threshold is the moving average of the smallest kept activation, as in sae-lens.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from saefeat.config import TrainConfig, to_dict
from saefeat.errors import InputError, SaefeatError
from saefeat.files import directory_lock, fingerprint, read_json
from saefeat.harvest import Position, Ranks, Source
from saefeat.sae.checkpoint import CHECKPOINT, State, checkpoint, peak_rate, resume, share, start
from saefeat.sae.files import FORMAT_VERSION
from saefeat.sae.result import write_result
from saefeat.sae.step import Params, Step, step, summed
from saefeat.subject import choose_dtype

log = logging.getLogger(__name__)
LOG_EVERY = 50
SCALE_TOKENS = 32_768
CLIP = 1.0
SHARED = ("tokens", "batch", "heldout", "checkpoint_every")
"""What SAEs that are trained side by side must have in common, beside the order of their batches."""
Progress = Callable[[int, int], None]


def train(
    source: Source, config: TrainConfig, out: Path | str, *, device: torch.device | str = "cpu",
    on_progress: Progress | None = None,
) -> Path:  # fmt: skip
    """Train an SAE on a harvest or a stream and save it as the folder `out`; returns `out`.

    Checkpoints lie in `<out>.training/` and go when the SAE is written. A finished `out` with the same inputs is left
    as it is. Raises InputError for a layer that is not in the source, another thing in `out`, or activations that are
    not numbers; SaefeatError if the loss stops being a number.
    """
    return train_side_by_side(source, [config], [out], device=device, on_progress=on_progress)[0]


def train_side_by_side(
    source: Source, configs: Sequence[TrainConfig], outs: Sequence[Path | str], *,
    device: torch.device | str = "cpu", on_progress: Progress | None = None,
) -> list[Path]:  # fmt: skip
    """Train several SAEs (layers, widths, k, seeds, architectures) from one reading of the source, as `train` does.

    Each becomes what `train` alone would have made of its config with the same `data_seed`. Raises InputError also if
    they differ in tokens, batch, heldout, checkpoint_every or the order of the batches.
    """
    jobs = [_job(source, config, Path(out), device) for config, out in zip(configs, outs, strict=True)]
    _check_alike(jobs)
    ranks = source.ranks
    waiting = [job for job in jobs if not ranks.told(ranks.first and _finished(job))]
    with contextlib.ExitStack() as locks:
        if ranks.first:
            for job in waiting:
                locks.enter_context(directory_lock(job.work))
                for orphan in job.out.parent.glob(f".{job.out.name}.*.tmp"):  # of a run killed while it wrote
                    shutil.rmtree(orphan, ignore_errors=True)
        if waiting:
            source.prepare()
            for job in waiting:
                job.begin(source)
            _run(source, waiting, on_progress)
        for job in waiting:
            if ranks.first and job.state is not None:
                write_result(job.state, job.config, source, job.out, job.work, job.inputs)
    if ranks.first:
        for job in jobs:  # also of those that were finished: a kill may have come between the two
            shutil.rmtree(job.work, ignore_errors=True)
    ranks.wait()
    return [job.out for job in jobs]


@dataclass
class Job:
    """One SAE in the making."""

    config: TrainConfig
    layer: int
    out: Path
    inputs: str
    """Fingerprint of all that settles the result."""
    device: torch.device
    state: State | None = None

    @property
    def work(self) -> Path:
        return self.out.with_name(self.out.name + ".training")

    def begin(self, source: Source) -> None:
        """The first state, or that of the last checkpoint; the first process's in all of them."""
        state = start(self.config, torch.zeros(source.d_model), source.d_model, self.device)
        if source.ranks.first:
            fresh = not (self.work / CHECKPOINT).exists()
            resume(state, self.work, self.inputs)
            if math.isnan(state.scale):
                state.scale, mean_D = input_scale(source, self.layer, self.config)
                if fresh:
                    state.params.b_dec_D.copy_(mean_D)
        share(state, source.ranks)
        self.state = state


def _job(source: Source, config: TrainConfig, out: Path, device: torch.device | str) -> Job:
    if config.layer is None and len(source.layers) != 1:
        raise InputError("several layers were harvested", do=f"choose one of {source.layers}")
    layer = source.check_layer(source.layers[0] if config.layer is None else config.layer)
    config = replace(config, layer=layer)
    settings = to_dict(config)
    if config.data_seed is None:  # a setting younger than SAEs that are to be recognised
        del settings["data_seed"]
    return Job(config, layer, out, fingerprint([settings, *source.identity]), torch.device(device))


def _check_alike(jobs: list[Job]) -> None:
    if len({job.out for job in jobs}) < len(jobs):
        raise InputError("two SAEs would be written to one folder")
    for name in SHARED:
        values = {getattr(job.config, name) for job in jobs}
        if len(values) > 1:
            raise InputError(f"SAEs trained side by side differ in {name}: {sorted(values)}", do="train them apart")
    if len({data_seed(job.config) for job in jobs}) > 1:
        raise InputError("SAEs trained side by side differ in the order of their batches", do="give one data_seed")


def data_seed(config: TrainConfig) -> int:
    """The seed of the order of the batches."""
    return config.seed if config.data_seed is None else config.data_seed


def _finished(job: Job) -> bool:
    """Whether `out` is this very SAE. Raises InputError if it is anything else but an empty or missing folder."""
    out = job.out
    if (out / "manifest.json").exists():
        if read_json(out / "manifest.json", kind="sae", version=FORMAT_VERSION).get("inputs") == job.inputs:
            return True
        raise InputError("holds an SAE of other settings or activations", where=out, do="choose another --out")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("holds other files", where=out, do="choose another --out")
    return False


def input_scale(source: Source, layer: int, config: TrainConfig) -> tuple[float, Tensor]:
    """(s, mean of s*x): s makes the mean squared norm of s*x the width D, on tokens that training may see."""
    x_ND = source.sample(layer, SCALE_TOKENS, config.seed, heldout=config.heldout).float()
    square = x_ND.square().sum(1).mean().item()
    if not (math.isfinite(square) and square > 0):
        what = f"the activations of layer {layer} have a mean squared norm of {square}"
        raise InputError(what, where=source.where, do="harvest again, perhaps with --dtype float32")
    scale = math.sqrt(source.d_model / square)
    return scale, scale * x_ND.mean(0)


# ---------------------------------------------------------------- the loop
def _run(source: Source, jobs: list[Job], on_progress: Progress | None) -> None:
    config, ranks = jobs[0].config, source.ranks
    steps = max(1, config.tokens // config.batch)
    # a kill may have come between the checkpoints of two SAEs: the one that is ahead waits for the others
    states = [job.state for job in jobs if job.state is not None]
    behind = min(states, key=lambda state: state.step)
    layers = tuple({job.layer for job in jobs})
    feed = source.feed(
        layers, config.batch, seed=data_seed(config), heldout=config.heldout, start=behind.positions
    )  # fmt: skip
    begun, first = time.monotonic(), behind.step
    try:
        for at in range(first, steps):
            x, position = next(feed)
            for job, state in zip(jobs, states, strict=True):
                if state.step == at:
                    speed = (at + 1 - first) * config.batch / (time.monotonic() - begun)
                    _advance(job, state, x[job.layer], steps, source, speed)
            if (at + 1) % config.checkpoint_every == 0:
                _checkpoint(jobs, states, at + 1, position, ranks)
            if on_progress is not None:
                on_progress((at + 1) * config.batch, steps * config.batch)
    finally:
        feed.close()  # type: ignore[attr-defined]


def _advance(job: Job, state: State, x_ND: Tensor, steps: int, source: Source, speed: float) -> None:
    """One step on this process's rows x_ND of a batch, not yet scaled."""
    config, ranks = job.config, source.ranks
    x_ND = x_ND.to(job.device).float() * state.scale
    lr = peak_rate(config) * rate(state.step, steps, config)
    dead_F = state.silent_F >= config.dead_after
    result = step(
        state.params, x_ND, config.k, widths=nested_widths(config), dead_F=dead_F,
        aux_coefficient=config.aux_coefficient, compute=choose_dtype("auto", job.device), ranks=ranks,
    )  # fmt: skip
    result = summed(result, ranks)
    if not torch.isfinite(result.loss):
        _explain(state, x_ND, result, source)
    descend(state, result.gradients, lr)
    if result.smallest is not None:
        share = config.threshold_lr if state.threshold else 1.0  # the first value starts the average
        state.threshold += share * (result.smallest - state.threshold)
    state.silent_F = torch.where(result.fires_F > 0, 0, state.silent_F + config.batch)
    state.fired_F += result.fires_F
    state.step += 1
    if state.step % LOG_EVERY == 0 or state.step == steps:
        total = float(batch_variance(x_ND, ranks))
        line = {
            "step": state.step, "tokens": state.step * config.batch, "loss": round(float(result.loss), 4),
            "explained_variance": round(1 - float(result.mse) / total, 4),
            "l0": round(float(result.fires_F.sum()) / config.batch, 2),
            "dead_share": round(float(dead_F.float().mean()), 4), "aux": round(float(result.aux), 4), "lr": lr,
            "tok_per_s": round(speed),
        }  # fmt: skip
        if ranks.first:
            with (job.work / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            log.info("train %s %s", job.out.name, " ".join(f"{name} {value}" for name, value in line.items()))


def batch_variance(x_ND: Tensor, ranks: Ranks) -> Tensor:
    """Mean squared distance of a batch's rows, of which each process has as many, from their mean."""
    n = len(x_ND) * ranks.size
    sum_D = x_ND.sum(0)
    ranks.add([sum_D])
    square = (x_ND - sum_D / n).square().sum()
    ranks.add([square])
    return square / n


def _explain(state: State, x_ND: Tensor, result: Step, source: Source) -> None:
    """Raise what made the loss something else than a number."""
    bad = (~x_ND.isfinite()).sum()
    source.ranks.add([bad])
    where = f"step {state.step}"
    if bad:
        raise InputError(f"the activations of {where} hold NaN or infinity", where=source.where)
    raise SaefeatError(f"the loss is {result.loss.item()} at {where}; lower lr")


def descend(state: State, gradients: Params, lr: float) -> None:
    """One Adam step, the gradient's norm clipped to 1 as in sae-lens."""
    state.adam.param_groups[0]["lr"] = lr
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    shrink = (CLIP / (norm + 1e-6)).clamp(max=1.0)
    for tensor, gradient in zip(state.params, gradients, strict=True):
        tensor.grad = gradient.mul_(shrink)
    state.adam.step()


def _checkpoint(jobs: list[Job], states: list[State], at: int, position: Position, ranks: Ranks) -> None:
    """Save the SAEs that stand at this step; processes that drifted apart in rounding are brought together."""
    positions = [(a, b, c) for a, b, c in ranks.gather(torch.tensor(position)).tolist()]
    for job, state in zip(jobs, states, strict=True):
        if state.step == at:
            state.positions = positions
            share(state, ranks)
            if ranks.first:
                checkpoint(state, job.work, job.inputs)


def rate(step: int, steps: int, config: TrainConfig) -> float:
    """The share of the peak rate at a step: linear rise, flat, linear fall to zero."""
    rise, fall = config.warmup * steps, config.decay * steps
    return min(1.0, (step + 1) / max(1.0, rise), (steps - step) / max(1.0, fall))


def nested_widths(config: TrainConfig) -> tuple[int, ...]:
    """The nested dictionaries of a Matryoshka; () for a plain one."""
    if config.architecture != "matryoshka":
        return ()
    F = config.features
    return config.matryoshka_widths or tuple(sorted({max(1, F // 16), max(1, F // 4), F}))
