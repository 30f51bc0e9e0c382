"""`build --dry-run`: tokens, disk, memory and time of a build on the machine at hand, before anything is written.

Times come from a few seconds of the real thing: the subject's forward pass to the layer asked for, training steps at
the width asked for, the label statistics of a few features. What is done already is found as the build finds it.
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saefeat.config import BuildConfig
from saefeat.files import require_disk
from saefeat.pipeline.build import stories_of
from saefeat.pipeline.speed import machine, memory
from saefeat.pipeline.stage import Stage
from saefeat.pipeline.stages import adopting, training


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a build takes. disk_bytes, memory_bytes and seconds are of what is still to do."""

    out: str
    machine: str
    layers: tuple[int, ...]
    stages: tuple[Stage, ...]
    disk_bytes: int
    memory_bytes: int
    seconds: float
    free_bytes: int
    notes: tuple[str, ...]

    def stage(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def plan(config: BuildConfig, out: Path) -> Plan:
    """What `build(config, out)` will take. Takes some seconds, writes nothing.

    Raises what the build would for settings that cannot work: InputError for a layer out of range, a text that is not
    there or too short, too few tokens for a batch, too little disk, another build in `out`.
    """
    corpus = stories_of(config)
    stages, shape, layers, notes = (adopting if config.sae.from_ else training)(config, corpus, out)
    left = [stage for stage in stages if stage.done < 1]
    disk = sum(round(stage.disk_bytes * (1 - stage.done)) for stage in left)
    disk += max((stage.scratch_bytes for stage in left), default=0)
    require_disk(out, disk)
    most = max((stage.memory_bytes for stage in left), default=0)
    if most > memory()[1]:
        notes.append(f"needs about {most / 1e9:.1f} GB of memory, {memory()[1] / 1e9:.1f} GB are free")
    return Plan(
        out=str(out), machine=machine(shape.device), layers=layers, stages=tuple(stages), disk_bytes=disk,
        memory_bytes=most, seconds=round(sum(stage.seconds for stage in left), 1), free_bytes=_free(out),
        notes=tuple(notes),
    )  # fmt: skip


def _free(out: Path) -> int:
    folder = out.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
