"""`saefeat train`: residual streams to a sparse autoencoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from saefeat.cli.build import quality_line
from saefeat.cli.common import Settings, emit, json_option, stages

EPILOG = """\b
Examples:
  saefeat train runs/l18 --features 4608 --k 48 --tokens 6000000 --out runs/sae-l18
  saefeat train runs/l18 --config train.toml --architecture matryoshka --out runs/matryoshka

\b
A config; flags go over it:
  layer = 18
  features = 4608
  k = 48
  tokens = 6_000_000
"""


@click.command(epilog=EPILOG)
@click.argument("activations", type=click.Path(path_type=Path))
@click.option("--config", "path", type=click.Path(path_type=Path), help="A TOML file of settings.")
@click.option("--architecture", type=click.Choice(["batchtopk", "matryoshka"]), help="Default: batchtopk.")
@click.option("--layer", type=click.IntRange(0), help="Which harvested layer (default: the only one).")
@click.option("--features", type=click.IntRange(1), help="Width of the dictionary.")
@click.option("--k", type=click.IntRange(1), help="Active features per token, on average.")
@click.option("--tokens", type=click.IntRange(1), help="Token visits in all; more than were harvested: epochs.")
@click.option("--batch", type=click.IntRange(1), help="Tokens a step.")
@click.option("--lr", type=float, help="Peak Adam rate (default: 4e-4 / sqrt(features / 2**14)).")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The SAE's folder.")
@json_option
@click.pass_obj
def command(settings: Settings, activations: Path, path: Path | None, out: Path, as_json: bool, **flags: Any) -> None:
    """Train a sparse autoencoder on harvested residual streams and report its quality on held-out tokens.

    Run the same command again after a kill and it continues exactly; when it is done it does nothing.
    """
    import dataclasses

    from saefeat.config import TrainConfig, load_config
    from saefeat.harvest import ActivationStore
    from saefeat.pipeline import measured_quality
    from saefeat.sae import train
    from saefeat.subject import Fingerprint, choose_device, load_subject

    given = {name: value for name, value in flags.items() if value is not None}
    if settings.seed is not None:
        given["seed"] = settings.seed
    config = dataclasses.replace(load_config(path, TrainConfig) if path else TrainConfig(), **given)
    store = ActivationStore(activations)
    # first, so that a missing or another model is told before the work and not after it
    subject = load_subject(store.manifest["subject"]["name"], device=settings.device, dtype=settings.dtype)
    harvested = Fingerprint.from_dict(store.fingerprint)
    harvested.check(subject.fingerprint, allow_other_weights=settings.allow_other_weights, where=activations)
    with stages(settings) as report:
        made = train(store, config, out, device=choose_device(settings.device), on_progress=report("train"))
        figures = measured_quality(made, store, subject, config.heldout, report)
    emit({"sae": str(made), "quality": figures}, lambda: f"{quality_line(figures)}\n{made}", as_json=as_json)
