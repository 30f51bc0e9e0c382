"""`saefeat atlas`: which atlases there are, what is in one, whether it is whole; one file from one and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from saefeat.cli.common import Settings, emit, json_option, table
from saefeat.errors import InputError

EPILOG = """\b
Examples:
  saefeat atlas list
  saefeat atlas show
  saefeat atlas verify indexes/mine
  saefeat atlas pack indexes/mine --out mine.tar.gz
  saefeat atlas unpack mine.tar.gz
"""


@click.group(epilog=EPILOG)
def command() -> None:
    """Atlases: list, show, verify, pack, unpack.

    A NAME is looked up in ./indexes, in $SAEFEAT_HOME/indexes, then among those that ship.
    """


@command.command("list", epilog="\b\nExamples:\n  saefeat atlas list --json")
@json_option
def list_(as_json: bool) -> None:
    """The atlases that a name finds."""
    from saefeat.atlas import list_atlases

    rows = list_atlases()

    def text() -> str:
        if not rows:
            return "No atlas is here: saefeat demo makes one."
        head = ["name", "place", "model", "SAEs", "emotions", "path"]
        cells = [
            [r["name"], r["place"], r.get("model", "unreadable"), ",".join(r.get("saes", [])), r.get("emotions", "-")]
            for r in rows
        ]
        return table(head, [[*cell, row["path"]] for cell, row in zip(cells, rows, strict=True)])

    emit({"atlases": rows}, text, as_json=as_json)


@command.command(epilog="\b\nExamples:\n  saefeat atlas show\n  saefeat atlas show indexes/mine --json")
@click.argument("name", required=False)
@json_option
@click.pass_obj
def show(settings: Settings, name: str | None, as_json: bool) -> None:
    """What an atlas is made of and where that came from (--json: its whole manifest)."""
    from saefeat.atlas import Atlas

    atlas = Atlas.open(name or settings.atlas)
    emit({**atlas.manifest, "path": str(atlas.directory)}, lambda: shown(atlas.manifest, atlas), as_json=as_json)


def shown(manifest: dict[str, Any], atlas: Any) -> str:
    """A manifest for a person."""
    rows = [
        ["name", manifest["name"]],
        ["path", atlas.directory],
        ["model", manifest["subject"]["name"]],
        ["emotions", f"{len(atlas.emotion_names)} in {len(set(atlas.families.values()))} families"],
        ["stories", f"{manifest['stories']} on topics {', '.join(atlas.topics)}"],
    ]
    for sae in manifest["saes"]:
        rows.append(
            ["SAE", f"{sae['name']}: {sae['features']} features ({sae['architecture']}) at {sae['hook_point']}"]
        )
    for readout in manifest["readouts"]:
        how = {"mean": "mean over the tokens", "opening": "where the next turn opens"}.get(readout["pool"])
        how = how or f"last token after {readout['continuation']!r}"
        held = readout.get("heldout") or {}
        figures = "".join(f", {key} {held[key]:.1%}" for key in ("top1", "top5") if key in held)
        rows.append(["readout", f"{readout['name']}: {how}, {readout['sae']}{figures}"])
    rows += [["created", f"{manifest['created']} by saefeat {manifest['saefeat']}"], ["", manifest["statement"]]]
    return "\n".join(f"{key:10}{value}" for key, value in rows)


@command.command(epilog="\b\nExamples:\n  saefeat atlas verify\n  saefeat atlas verify indexes/mine")
@click.argument("name", required=False)
@json_option
@click.pass_obj
def verify(settings: Settings, name: str | None, as_json: bool) -> None:
    """Check every file of an atlas against its checksum; exit code 2 if it is not whole."""
    from saefeat.atlas import find_atlas
    from saefeat.atlas import verify as check

    directory = find_atlas(name or settings.atlas)
    problems = check(directory)
    if problems and not as_json:
        raise InputError("; ".join(problems), where=directory)
    emit({"atlas": str(directory), "problems": problems}, lambda: f"{directory}: whole", as_json=as_json)
    if problems:
        raise click.exceptions.Exit(2)


@command.command(epilog="\b\nExamples:\n  saefeat atlas pack indexes/mine --out mine.tar.gz")
@click.argument("name", required=False)
@click.option("--out", type=click.Path(path_type=Path), help="The .tar.gz to write (default: NAME.tar.gz here).")
@json_option
@click.pass_obj
def pack(settings: Settings, name: str | None, out: Path | None, as_json: bool) -> None:
    """One file from an atlas, with its SAEs (the model itself is not in it)."""
    from saefeat.atlas import find_atlas
    from saefeat.atlas import pack as write

    directory = find_atlas(name or settings.atlas)
    packed = write(directory, out or Path(f"{directory.resolve().name}.tar.gz"))
    size = packed.stat().st_size
    emit({"file": str(packed), "bytes": size}, lambda: f"{packed}: {size / 1e6:.1f} MB", as_json=as_json)


@command.command(
    epilog="\b\nExamples:\n  saefeat atlas unpack mine.tar.gz\n  saefeat atlas unpack mine.tar.gz --out here/"
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The directory (default: $SAEFEAT_HOME/indexes/NAME).")
@json_option
def unpack(file: Path, out: Path | None, as_json: bool) -> None:
    """An atlas from one file; refused if it is not whole or holds anything unsafe."""
    from saefeat.atlas import packed_name
    from saefeat.atlas import unpack as read
    from saefeat.files import home

    made = read(file, out or home() / "indexes" / packed_name(file))
    emit({"atlas": str(made)}, lambda: f"{made}\nsaefeat --atlas {made} nearest TEXT", as_json=as_json)
