"""`saefeat index`: labels and SAEs to an atlas; and `saefeat index add`, texts to an index of texts."""

from __future__ import annotations

from pathlib import Path

import click

from saefeat.cli import index_texts
from saefeat.cli.common import Settings, emit, json_option
from saefeat.cli.progress import stages

EPILOG = """\b
Examples:
  saefeat index --labels labels/ --sae sae/ --out indexes/mine
  saefeat --atlas indexes/mine nearest "some text"
  saefeat index add texts.jsonl --to texts/
  saefeat similar "some text" --in texts/
"""


@click.group(epilog=EPILOG, invoke_without_command=True)
@click.option("--labels", type=click.Path(path_type=Path), help="What `saefeat label` made.  [required]")
@click.option("--sae", "saes", multiple=True, type=click.Path(path_type=Path), help="SAE folder(s).  [required]")
@click.option("--out", type=click.Path(path_type=Path), help="The atlas to make (default: $SAEFEAT_HOME/indexes/NAME).")
@click.option("--name", help="The atlas's name (default: that of --out).")
@click.option("--model", help="The subject model (default: the one the labels were made with).")
@json_option
@click.pass_context
def command(
    context: click.Context,
    labels: Path | None,
    saes: tuple[Path, ...],
    out: Path | None,
    name: str | None,
    model: str | None,
    as_json: bool,
) -> None:
    """Labels, prototypes and SAEs to an atlas: the one directory from which every query is answered.

    Reads the stories once more for the snippets on which each labelled feature fires most.

    With a command after it: an index of texts, whose profiles `saefeat similar --in DIR` searches.
    """
    given = [labels, saes, out, name, model, as_json]
    if context.invoked_subcommand is not None:
        if any(given):
            raise click.UsageError(f"the options belong after {context.invoked_subcommand}", context)
        return
    parameters = {parameter.name: parameter for parameter in context.command.params}
    if labels is None:
        raise click.MissingParameter(ctx=context, param=parameters["labels"])
    if not saes:
        raise click.MissingParameter(ctx=context, param=parameters["saes"])
    make_atlas(context.obj, labels, saes, out, name, model, as_json)


for subcommand in (index_texts.add, index_texts.build, index_texts.info):
    command.add_command(subcommand)


def make_atlas(
    settings: Settings,
    labels: Path,
    saes: tuple[Path, ...],
    out: Path | None,
    name: str | None,
    model: str | None,
    as_json: bool,
) -> None:
    """Make the atlas and say where it is."""
    from saefeat.atlas import build_atlas
    from saefeat.errors import InputError
    from saefeat.files import home
    from saefeat.label import read_manifest
    from saefeat.subject import load_subject

    if out is None and name is None:
        raise InputError("the atlas has no name", do="pass --out DIR or --name NAME")
    where = out or home() / "indexes" / str(name)
    subject = load_subject(
        model or read_manifest(labels)["subject"]["name"], device=settings.device, dtype=settings.dtype
    )
    with stages(settings) as report:
        made = build_atlas(
            labels,
            saes,
            where,
            subject=subject,
            name=name,
            allow_other_weights=settings.allow_other_weights,
            on_progress=report("index"),
        )
    size = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
    text = f"{made}: {size / 1e6:.1f} MB\nsaefeat --atlas {made} nearest TEXT"
    emit({"atlas": str(made), "bytes": size}, lambda: text, as_json=as_json)
