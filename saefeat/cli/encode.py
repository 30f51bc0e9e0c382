"""`saefeat encode`: pooled SAE features of texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from saefeat.cli.common import Settings
from saefeat.cli.querying import json_line, lines_to, open_atlas
from saefeat.errors import InputError

EPILOG = """\b
Examples:
  saefeat encode --input texts.txt --output features.jsonl
  saefeat encode --input texts.jsonl --output features.h5 --readout felt

\b
The .h5 holds the rows as CSR: data, indices, indptr, ids; attributes shape, sae, readout.
"""


@click.command(epilog=EPILOG)
@click.option("--input", "source", required=True, metavar="FILE", help="Texts: .txt or .jsonl; - is stdin.")
@click.option("--output", type=click.Path(path_type=Path), help=".jsonl or .h5 (default: JSON lines on stdout).")
@click.option("--readout", help="story, felt or turn (default: the atlas's first).")
@click.option("--keep-going", is_flag=True, help='A text that cannot be read gives {"id", "error"}.')
@click.pass_obj
def command(settings: Settings, source: str, output: Path | None, readout: str | None, keep_going: bool) -> None:
    """Pooled SAE features of texts: {"id", "readout", "features": {"L19.12": 0.53}}, or a sparse matrix in .h5."""
    from saefeat.corpus import read_texts

    if output is not None and output.suffix not in (".jsonl", ".h5"):
        raise InputError("is neither .jsonl nor .h5", where=output, do="choose another --output")
    atlas = open_atlas(settings)
    results = atlas.encode(read_texts(source, keep_going=keep_going), readout=readout, keep_going=keep_going)
    if output is not None and output.suffix == ".h5":
        name = readout or next(iter(atlas.readouts))
        entry = atlas.sae_entries[atlas.readouts[name]["sae"]]
        write_csr(results, output, sae=entry["name"], width=entry["features"], readout=name)
        return
    with lines_to(output) as file:
        for result in results:
            if file is None:
                click.echo(json_line(result))
            else:
                file.write(json_line(result) + "\n")


def write_csr(results: Iterator[dict[str, Any]], path: Path, *, sae: str, width: int, readout: str) -> None:
    """Write the results as a sparse matrix; a text in error is an empty row whose `errors` entry is not ''."""
    import h5py
    import numpy as np

    from saefeat.files import atomic_path

    data, indices, ends, ids, errors = [], [], [0], [], []
    for result in results:
        features = result.get("features", {})
        data.append(np.array(list(features.values()), np.float32))
        indices.append(np.array([int(name.rpartition(".")[2]) for name in features], np.int32))
        ends.append(ends[-1] + len(features))
        ids.append(result["id"])
        errors.append(result.get("error", ""))
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["format"], file.attrs["format_version"] = "features", 1
        file.attrs["shape"], file.attrs["sae"], file.attrs["readout"] = (len(ids), width), sae, readout
        file["data"] = np.concatenate([*data, np.zeros(0, np.float32)])
        file["indices"] = np.concatenate([*indices, np.zeros(0, np.int32)])
        file["indptr"] = np.array(ends, np.int64)
        file["ids"] = np.array(ids, dtype=h5py.string_dtype())
        file["errors"] = np.array(errors, dtype=h5py.string_dtype())
