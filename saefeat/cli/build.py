"""`saefeat build`: a TOML file to an atlas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from saefeat.cli.common import Settings, emit, json_option, stages

EPILOG = """\b
Examples:
  saefeat build my-atlas.toml --dry-run
  saefeat build my-atlas.toml --out runs/mine
  saefeat --atlas runs/mine/my-atlas nearest "some text"

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
"""


@click.command(epilog=EPILOG)
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Where to build (default: $SAEFEAT_HOME/builds/NAME).")
@click.option("--dry-run", is_flag=True, help="Only say what it will take.")
@json_option
@click.pass_obj
def command(settings: Settings, config: Path, out: Path | None, dry_run: bool, as_json: bool) -> None:
    """Text and stories to an atlas: harvest, train, label and index, with resume.

    Run it again after a kill and it continues; run it again when it is done and it does nothing.
    """
    import dataclasses

    from saefeat.config import BuildConfig, load_config
    from saefeat.files import home
    from saefeat.pipeline import build, plan
    from saefeat.subject import load_subject

    recipe = load_config(config, BuildConfig)
    if settings.device != "auto" or settings.dtype != "auto":
        subject_config = dataclasses.replace(recipe.subject, **chosen(settings))
        recipe = dataclasses.replace(recipe, subject=subject_config)
    where = out or home() / "builds" / recipe.name
    if dry_run:
        subject = load_subject(recipe.subject.model, device=recipe.subject.device, dtype=recipe.subject.dtype)
        needed = dataclasses.asdict(plan(recipe, subject)) | {"out": str(where)}
        lines = [f"{k.replace('_', ' ')}: {format(v, ',') if isinstance(v, int) else v}" for k, v in needed.items()]
        emit(needed, lambda: "\n".join(lines), as_json=as_json)
        return
    with stages(settings) as report:
        built = build(recipe, where, report=report)
    result = {"atlas": str(built.atlas), "sae": str(built.sae), "quality": built.quality}
    emit(result, lambda: f"{quality_line(built.quality)}\nsaefeat --atlas {built.atlas} nearest TEXT", as_json=as_json)


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
    return "SAE on held-out tokens: " + ", ".join(f"{text} {figures[key]:.3g}" for key, text in names.items())
