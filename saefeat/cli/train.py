"""`saefeat train`: residual streams, from disk or from the running model, to sparse autoencoders."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import click

from saefeat.cli.build import quality_line
from saefeat.cli.common import Settings, emit, json_option
from saefeat.cli.harvest import numbers
from saefeat.cli.progress import stages

EPILOG = """\b
Examples:
  saefeat train runs/l18 --features 4608 --k 48 --tokens 6000000 --out runs/sae-l18
  saefeat train runs/l18 --config train.toml --architecture matryoshka --out runs/matryoshka
  saefeat train --stream novels/ --model smollm2-135m-instruct --layers 18 --tokens 6000000 --out runs/sae-l18
  saefeat train --stream novels/ --layers 18,20 --features 4608,9216 --k 32,64 --seeds 0,1 --out runs/grid
  torchrun --nproc-per-node 8 -m saefeat train runs/l18 --features 36864 --batch 16384 --out runs/wide

\b
A config; flags go over it:
  layer = 18
  features = 4608
  k = 48
  tokens = 6_000_000
"""


@click.command(epilog=EPILOG)
@click.argument("activations", type=click.Path(path_type=Path), required=False)
@click.option("--stream", "text", multiple=True, help="Train from the running model on this text; repeatable.")
@click.option("--model", envvar="SAEFEAT_MODEL", help="With --stream: the model (default: smollm2-135m-instruct).")
@click.option("--config", "path", type=click.Path(path_type=Path), help="A TOML file of settings.")
@click.option("--architecture", type=click.Choice(["batchtopk", "matryoshka"]), help="Default: batchtopk.")
@click.option("--layer", "--layers", "layers", help="Which layer (default: the only one); several: 18,20.")
@click.option("--features", help="Width of the dictionary; several: 4608,9216.")
@click.option("--k", help="Active features per token, on average; several: 32,64.")
@click.option("--seeds", help="Of the first weights; several, all on the same batches: 0,1.")
@click.option("--tokens", type=click.IntRange(1), help="Token visits in all; more than there are: epochs.")
@click.option("--batch", type=click.IntRange(1), help="Tokens a step.")
@click.option("--lr", type=float, help="Peak Adam rate (default: 4e-4 / sqrt(features / 2**14)).")
@click.option("--context", type=click.IntRange(8), help="With --stream: tokens of a packed context.")
@click.option("--batch-contexts", type=click.IntRange(1), help="With --stream: contexts a forward pass takes.")
@click.option("--buffer-tokens", type=click.IntRange(1), help="With --stream: tokens the buffer holds (131072).")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The SAE's folder; of several, one above.")
@json_option
@click.pass_obj
def command(
    settings: Settings, activations: Path | None, path: Path | None, out: Path, as_json: bool, **flags: Any
) -> None:
    """Train sparse autoencoders on residual streams and report their quality on held-out tokens.

    From a harvest, or with --stream straight from the running model. Several layers, widths, k or seeds make one SAE
    each, all trained side by side from one reading. Run the same command again after a kill and it continues exactly;
    when it is done it does nothing.
    """
    import contextlib
    import dataclasses

    from saefeat.config import TrainConfig, load_config
    from saefeat.errors import InputError
    from saefeat.harvest import joined, place
    from saefeat.pipeline import measured_quality
    from saefeat.sae import train_side_by_side
    from saefeat.subject import choose_device

    if (activations is None) == (not flags["text"]):
        raise InputError("nothing to train on" if activations is None else "both ACTIVATIONS and --stream were given",
                         do="pass the directory of a harvest, or --stream TEXT")  # fmt: skip
    base = load_config(path, TrainConfig) if path else TrainConfig()
    configs = grid(settings, base, flags)
    with joined() as ranks, contextlib.ExitStack() as shown:
        settings = dataclasses.replace(settings, device=place(settings.device))
        source, subject = opened(settings, activations, configs, flags, ranks)
        outs = folders(out, configs)
        report = shown.enter_context(stages(settings)) if ranks.first else lambda stage: None
        made = train_side_by_side(
            source, configs, outs, device=choose_device(settings.device), on_progress=report("train")
        )
        saes: list[dict[str, Any]] = []
        for sae in made if ranks.first else []:
            figures = measured_quality(sae, source, subject, configs[0].heldout, report)
            saes.append({"sae": str(sae), "quality": figures})
        ranks.wait()
    if ranks.first:
        lines = [f"{quality_line(one['quality'])}\n{one['sae']}" for one in saes]
        emit(saes[0] if len(saes) == 1 else {"saes": saes}, lambda: "\n".join(lines), as_json=as_json)


def grid(settings: Settings, base: Any, flags: dict[str, Any]) -> list[Any]:
    """A TrainConfig for every combination of layers, widths, k and seeds, all on the same batches."""
    import dataclasses

    given = {name: flags[name] for name in ("architecture", "tokens", "batch", "lr") if flags[name] is not None}
    seed = base.seed if settings.seed is None else settings.seed
    axes = {
        "layer": numbers(flags["layers"], "--layers") if flags["layers"] else [base.layer],
        "features": numbers(flags["features"], "--features") if flags["features"] else [base.features],
        "k": numbers(flags["k"], "--k") if flags["k"] else [base.k],
        "seed": numbers(flags["seeds"], "--seeds") if flags["seeds"] else [seed],
    }
    combinations = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    data_seed = base.data_seed
    if data_seed is None and len(axes["seed"]) > 1:
        data_seed = axes["seed"][0]
    return [dataclasses.replace(base, **given, **one, data_seed=data_seed) for one in combinations]


def folders(out: Path, configs: list[Any]) -> list[Path]:
    """Where the SAEs go: `out` itself if it is one, else a folder in it for each, such as L18-f4608-k32-s0."""
    if len(configs) == 1:
        return [out]
    return [out / f"L{c.layer}-f{c.features}-k{c.k}-s{c.seed}" for c in configs]


def opened(settings: Settings, activations: Path | None, configs: list[Any], flags: dict[str, Any], ranks: Any) -> Any:
    """(source of batches, subject): a harvest and the model it was made with, or a model and a text."""
    import math

    from saefeat.config import HarvestConfig, SubjectConfig
    from saefeat.errors import InputError
    from saefeat.harvest import ActivationStore, Stream
    from saefeat.subject import Fingerprint, load_subject

    if activations is not None:
        store = ActivationStore(activations, ranks=ranks)
        # first, so that a missing or another model is told before the work and not after it
        subject = load_subject(store.manifest["subject"]["name"], device=settings.device, dtype=settings.dtype)
        harvested = Fingerprint.from_dict(store.fingerprint)
        harvested.check(subject.fingerprint, allow_other_weights=settings.allow_other_weights, where=activations)
        return store, subject
    layers = tuple(sorted({config.layer for config in configs if config.layer is not None}))
    if not layers:
        raise InputError("no layer to read", do="pass --layers, such as --layers 18")
    first = configs[0]
    reading = HarvestConfig(
        text=tuple(flags["text"]), layers=layers, seed=first.seed if first.data_seed is None else first.data_seed,
        tokens=math.ceil(first.tokens / (1 - first.heldout)),
        **{name: flags[name] for name in ("context", "batch_contexts") if flags[name] is not None},
    )  # fmt: skip
    model = flags["model"] or SubjectConfig().model
    subject = load_subject(model, device=settings.device, dtype=settings.dtype)
    buffer = {"buffer_tokens": flags["buffer_tokens"]} if flags["buffer_tokens"] else {}
    return Stream(subject, reading, ranks=ranks, **buffer), subject
