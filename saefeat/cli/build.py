"""`saefeat build`: a TOML file, or an SAE that is there already, to an atlas."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from saefeat.cli.common import Settings, emit, json_option, table
from saefeat.cli.progress import duration, stages

if TYPE_CHECKING:
    from saefeat.config import BuildConfig
    from saefeat.pipeline import Plan

EPILOG = """\b
Examples:
  saefeat build my-atlas.toml --dry-run
  saefeat build my-atlas.toml --out runs/mine
  saefeat --atlas runs/mine/my-atlas nearest "some text"
  saefeat build --sae gemma-scope-2-1b-pt-res/layer_13_width_16k_l0_medium --out runs/gemma
  saefeat build --sae downloads/sae-llama/layers.10 --model meta-llama/Llama-3.2-1B

\b
A config, every setting of which has a default:
  name = "my-atlas"
  [subject]
  model = "smollm2-135m-instruct"
  [harvest]
  text = ["novels/", "chat.jsonl"]
  layers = [18]
  tokens = 2_000_000
  [train]
  features = 4608
  k = 48
  [label]
  stories = "stories"

\b
An SAE of others in the place of [harvest] and [train]:
  [sae]
  from = "downloads/sae-llama/layers.10"
"""


@click.command(epilog=EPILOG)
@click.argument("config", type=click.Path(path_type=Path), required=False)
@click.option("--sae", help="An SAE to label: a folder of SAELens or sparsify, or RELEASE/ID of SAELens' list.")
@click.option("--model", help="The subject model (with --sae default: the one that the SAE's files name).")
@click.option("--layer", type=click.IntRange(0), help="With --sae: the block it reads, if its files do not say.")
@click.option("--stories", help="Story corpus: a directory, or the name of one that ships (default: stories).")
@click.option("--name", help="The atlas's name.")
@click.option("--out", type=click.Path(path_type=Path), help="Where to build (default: $SAEFEAT_HOME/builds/NAME).")
@click.option("--dry-run", is_flag=True, help="Only say what it will take on this machine; writes nothing.")
@json_option
@click.pass_obj
def command(
    settings: Settings, config: Path | None, out: Path | None, dry_run: bool, as_json: bool, **flags: Any
) -> None:
    """Text and stories to an atlas: harvest, train, label and index, with resume.

    With --sae nothing is harvested or trained: somebody else's SAE of a residual stream is labelled as it is. Run it
    again after a kill and it continues; run it again when it is done and it does nothing.
    """
    from saefeat.files import home
    from saefeat.pipeline import build, plan

    recipe = recipe_of(settings, config, flags)
    where = out or home() / "builds" / recipe.name
    if dry_run:
        told = plan(recipe, where)
        emit(told.to_dict(), lambda: plan_text(told), as_json=as_json)
        return
    with stages(settings) as report:
        built = build(recipe, where, report=report)
    result = {"atlas": str(built.atlas), "sae": str(built.sae), "quality": built.quality}
    emit(result, lambda: f"{quality_line(built.quality)}\nsaefeat --atlas {built.atlas} nearest TEXT", as_json=as_json)


def recipe_of(settings: Settings, path: Path | None, flags: dict[str, Any]) -> BuildConfig:
    """The config of a build: flags over the TOML file over the defaults."""
    import dataclasses

    from saefeat.config import BuildConfig, load_config
    from saefeat.errors import InputError

    if path is None and not flags["sae"]:
        raise InputError("nothing to build", do="pass a CONFIG.toml, or --sae for an SAE that is there already")
    recipe = load_config(path, BuildConfig) if path else BuildConfig(name=atlas_name(flags["sae"]))
    sae = {"from_": flags["sae"], "layer": flags["layer"]}
    sae["model"] = flags["model"] if flags["sae"] or recipe.sae.from_ else None
    subject = {"model": None if sae["model"] else flags["model"], **chosen(settings)}
    parts: dict[str, dict[str, Any]] = {"sae": sae, "subject": subject, "label": {"stories": flags["stories"]}}
    for part, given in parts.items():
        given = {key: value for key, value in given.items() if value is not None}
        recipe = dataclasses.replace(recipe, **{part: dataclasses.replace(getattr(recipe, part), **given)})
    return dataclasses.replace(recipe, name=flags["name"]) if flags["name"] else recipe


def atlas_name(source: str) -> str:
    """An atlas's name from where its SAE comes from: the last two parts of a path, all of a release."""
    parts = [part for part in Path(source).parts if part not in ("/", ".", "..", "~")]
    kept = parts[-2:] if Path(source).expanduser().exists() else parts
    return "-".join(kept).replace(" ", "-") or "atlas"


def chosen(settings: Settings) -> dict[str, Any]:
    """The global device and dtype, where they were given."""
    return {k: v for k, v in {"device": settings.device, "dtype": settings.dtype}.items() if v != "auto"}


def quality_line(figures: dict[str, Any]) -> str:
    """An SAE's quality in a line."""
    names = {
        "explained_variance": "explained variance",
        "l0": "L0",
        "dead_share": "dead",
        "ce_recovered": "CE recovered",
    }
    told = ", ".join(f"{text} {figures[key]:.3g}" for key, text in names.items() if key in figures)
    return f"SAE on {'the stories' if figures.get('on') == 'stories' else 'held-out tokens'}: {told}"


def plan_text(plan: Plan) -> str:
    """A dry run for a person."""
    rows = [
        [
            stage.name,
            "done" if stage.done == 1 else f"{stage.done:.0%}",
            f"{stage.tokens:,}",
            size(stage.disk_bytes),
            size(stage.memory_bytes),
            duration(stage.seconds),
        ]
        for stage in plan.stages
    ]
    total = [size(plan.disk_bytes), size(plan.memory_bytes), duration(plan.seconds)]
    rows.append(["still to do", "", "", *total])
    lines = [table(["stage", "done", "tokens", "disk", "memory", "time left"], rows), ""]
    lines += [f"on {plan.machine}", f"in {plan.out}: {size(plan.free_bytes)} free"]
    lines += [f"{stage.name}: {stage.basis}" for stage in plan.stages if stage.done < 1]
    return "\n".join(lines + [f"note: {note}" for note in plan.notes])


def size(n_bytes: float) -> str:
    """'1.2 GB'."""
    for unit, power in (("TB", 4), ("GB", 3), ("MB", 2), ("kB", 1)):
        if n_bytes >= 1000**power:
            return f"{n_bytes / 1000**power:.1f} {unit}"
    return f"{n_bytes:.0f} B"
