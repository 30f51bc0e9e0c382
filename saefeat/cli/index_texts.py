"""`saefeat index add`, `build` and `info`: an index of texts, whose profiles `saefeat similar --in` searches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from saefeat.cli.common import Settings, emit, json_option
from saefeat.cli.progress import stages
from saefeat.cli.querying import open_atlas
from saefeat.errors import InputError

ADD = """\b
Examples:
  saefeat index add texts.txt --to texts/
  saefeat index add diary.jsonl --to diary/ --readout felt --keep-going
  zcat many.jsonl.gz | saefeat index add - --to many/
"""
INFO = """\b
Examples:
  saefeat index info texts/
"""
BUILD = """\b
Examples:
  saefeat index build texts/
"""


@click.command(epilog=ADD)
@click.argument("texts", required=False)
@click.option("--to", type=click.Path(path_type=Path), help="The index (default: $SAEFEAT_HOME/texts/ATLAS).")
@click.option("--readout", help="Of a new index: story, felt or turn (default: the atlas's first).")
@click.option("--keep-going", is_flag=True, help="Go on after a text that cannot be read.")
@json_option
@click.pass_obj
def add(
    settings: Settings, texts: str | None, to: Path | None, readout: str | None, keep_going: bool, as_json: bool
) -> None:
    """Read texts and keep their emotion profiles in an index, to be searched by `saefeat similar --in`.

    TEXTS: a .txt (a line a text) or .jsonl with {"id"?, "text"} and further fields, which `similar --where` knows;
    - or nothing: stdin. A text is known by its id, or else by its content; those that are in are skipped, so that
    after an interruption the same command goes on where it stopped. One index holds profiles by one readout.
    """
    from saefeat.corpus import read_texts

    if to is not None and to.is_file():
        raise InputError("is a file", where=to, do="choose another --to")
    source = _source(texts)
    atlas = open_atlas(settings)
    with stages(settings) as report:
        items = read_texts(source, keep_going=keep_going)
        told = report("reading texts")
        done = atlas.add_texts(items, to, readout=readout, keep_going=keep_going, on_progress=told)
    counts = {"skipped": "in already", "changed": "of them with another text", "failed": "could not be read"}
    more = [f"{getattr(done, name)} {words}" for name, words in counts.items() if getattr(done, name)]
    lines = [
        f"{done.directory}: {done.rows} texts, {done.added} of them new" + "".join(f"; {part}" for part in more),
        f"read as {done.readout}; search is {_search(done.search)}",
        f"saefeat similar TEXT --in {done.directory}",
    ]
    emit(done.to_dict(), lambda: "\n".join(lines), as_json=as_json)


@click.command(epilog=BUILD)
@click.argument("directory", type=click.Path(path_type=Path))
@json_option
@click.pass_obj
def build(settings: Settings, directory: Path, as_json: bool) -> None:
    """Make anew what speeds up search in an index of more than 100,000 texts (`add` does it when it is due)."""
    from saefeat.atlas import build_lists

    with stages(settings) as report:
        search = build_lists(directory, on_progress=report("texts"))
    emit({"index": str(directory), "search": search}, lambda: f"search is {_search(search)}", as_json=as_json)


@click.command(epilog=INFO)
@click.argument("directory", type=click.Path(path_type=Path))
@json_option
def info(directory: Path, as_json: bool) -> None:
    """What an index of texts holds; every checksum is checked."""
    from saefeat.atlas import Rows

    rows = Rows.open(directory)
    told = {key: value for key, value in rows.manifest.items() if key not in ("sums", "check", "emotions")}
    size = sum(path.stat().st_size for path in directory.iterdir() if path.is_file())
    told = {"index": str(directory), **told, "emotions": rows.width, "bytes": size}
    lines = [
        f"{directory}: {rows.n} texts, {size / 1e6:.1f} MB, whole",
        f"profiles of {rows.width} emotions by the atlas {told['atlas']['name']}, readout {told['readout']}",
        f"search is {_search(told['search'])}",
    ]
    emit(told, lambda: "\n".join(lines), as_json=as_json)


def _source(texts: str | None) -> str:
    """TEXTS, or '-' for stdin. Raises InputError: nothing given on a terminal, no such file."""
    import sys

    if texts is None and sys.stdin.isatty():
        raise InputError("no texts given", do="pass a file, or pipe them in")
    if texts in (None, "-"):
        return "-"
    path = Path(str(texts))
    if not path.is_file():
        raise InputError("is a directory" if path.is_dir() else "no such file", where=path)
    return str(path)


def _search(told: dict[str, Any] | None) -> str:
    if not told or not told["file"]:
        return "exact"
    return (
        f"by {told['lists']} lists over {told['rows']} texts, {told['probes']} looked into, "
        f"which find {told['recall_at_10']:.1%} of the ten nearest"
    )
