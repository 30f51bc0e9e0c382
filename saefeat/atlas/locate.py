"""Where atlases are found: a directory, or a name in ./indexes, in $SAEFEAT_HOME/indexes, or among those that ship."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from saefeat.errors import FormatError, InputError, UnknownName
from saefeat.files import home, read_json, shipped

MANIFEST, FORMAT, VERSION = "atlas.json", "atlas", 3
"""Format 1 has scores without a direction of flat texts; 2 has emotions.faiss, which is not read; 3 readouts of
dialogues."""


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of the atlas in `directory`. Raises FormatError."""
    return read_json(directory / MANIFEST, kind=FORMAT, version=VERSION)


def places() -> tuple[tuple[str, Path], ...]:
    """(kind, folder of atlases), in the order in which a name is looked up."""
    return ("here", Path("indexes")), ("home", home() / "indexes"), ("shipped", shipped("indexes"))


def known_atlases() -> Iterator[tuple[str, str, Path]]:
    """(name, kind of place, directory) of every atlas that a name finds; the first of a name hides the others."""
    seen: set[str] = set()
    for kind, folder in places():
        for path in sorted(folder.glob(f"*/{MANIFEST}")):
            name = path.parent.name
            if not name.startswith(".") and name not in seen:
                seen.add(name)
                yield name, kind, path.parent


def list_atlases() -> list[dict[str, Any]]:
    """Every atlas that a name finds: name, place (here, home, shipped), path, model, emotions, SAEs, created; or,
    for one that cannot be read, error."""
    rows = []
    for name, place, path in known_atlases():
        row: dict[str, Any] = {"name": name, "place": place, "path": str(path)}
        try:
            manifest = read_manifest(path)
            row |= {"model": manifest["subject"]["name"], "emotions": len(manifest["emotions"])}
            row |= {"saes": [entry["name"] for entry in manifest["saes"]], "created": manifest["created"]}
        except (FormatError, KeyError, TypeError) as error:
            row["error"] = str(error)
        rows.append(row)
    return rows


def find_atlas(name_or_dir: str | Path | None = None) -> Path:
    """The directory of an atlas; None is the only one that ships. Raises UnknownName, InputError, FormatError."""
    if name_or_dir is None:
        return _default()
    directory = Path(name_or_dir)
    if (directory / MANIFEST).is_file():
        return directory
    name = str(name_or_dir)
    atlases = {known: path for known, _, path in known_atlases()}
    if name in atlases:
        return atlases[name]
    if directory.is_dir():
        raise FormatError(f"is not an atlas (no {MANIFEST})", where=directory)
    if directory.is_file():
        raise FormatError("is a file, not an atlas", where=directory, do="unpack it: saefeat atlas unpack FILE")
    raise UnknownName("atlas", name, atlases, do="see saefeat atlas list, or pass its directory")


def _default() -> Path:
    shipping = [path for _, kind, path in known_atlases() if kind == "shipped"]
    folder = shipped("indexes")
    if not shipping and folder.is_dir():  # hidden behind one of the same name elsewhere
        shipping = [path.parent for path in sorted(folder.glob(f"*/{MANIFEST}"))]
    if len(shipping) == 1:
        return shipping[0]
    if not shipping:
        raise InputError("no atlas ships with this saefeat", do="build one (saefeat demo), or name one with --atlas")
    raise InputError("several atlases ship", do="name one with --atlas: " + ", ".join(path.name for path in shipping))
