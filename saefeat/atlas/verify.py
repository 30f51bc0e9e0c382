"""Whether an atlas is whole: every file there, as it was written, and readable."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saefeat.atlas.build import SHIPPED_SAE, WEIGHTS
from saefeat.atlas.locate import MANIFEST, read_manifest
from saefeat.errors import FormatError, InputError
from saefeat.files import sha256_file, shipped
from saefeat.sae import SAE, load_sae

UNREAD = ("emotions.faiss",)
"""What older atlases hold beside the prototypes that say the same."""


def sae_path(directory: Path, entry: Mapping[str, Any]) -> Path:
    """The folder of an SAE of the atlas in `directory`. Raises FormatError for a path that leads elsewhere."""
    path = str(entry["path"])
    if path.startswith(SHIPPED_SAE):
        name = path.removeprefix(SHIPPED_SAE)
        folder = shipped("checkpoints")
    else:
        name, folder = path, directory
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise FormatError(f"names an SAE outside the atlas ({path})", where=directory / MANIFEST)
    return folder / name


def checked_sae(directory: Path, entry: Mapping[str, Any]) -> SAE:
    """Load an SAE of an atlas. Raises FormatError if it is missing, corrupt, or not the one the atlas was made with."""
    path = sae_path(directory, entry)
    if not (path / WEIGHTS).is_file():
        raise FormatError(f"the SAE {entry['name']} is missing", where=path, do="restore it, or build the atlas again")
    if sha256_file(path / WEIGHTS) != entry["sha256"]:
        what = f"is not the SAE {entry['name']} that the atlas was made with (its SHA-256 differs)"
        raise FormatError(what, where=path / WEIGHTS, do="restore it, or build the atlas again")
    sae = load_sae(path)
    if (sae.layer, sae.n_features) != (entry["layer"], entry["features"]):
        raise FormatError(f"is not the SAE {entry['name']} that the atlas was made with", where=path)
    return sae


def files_of(manifest: Mapping[str, Any]) -> dict[str, str]:
    """File → SHA-256 of what an atlas is read from; one of format 2 or 1 lists more."""
    return {name: digest for name, digest in manifest.get("files", {}).items() if name not in UNREAD}


def verify(directory: Path) -> list[str]:
    """One line for everything that is wrong; [] for a whole atlas. Raises FormatError if there is no manifest."""
    from saefeat.atlas.opened import Opened

    manifest = read_manifest(directory)
    problems = []
    for name, digest in files_of(manifest).items():
        path = directory / name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif sha256_file(path) != digest:
            problems.append(f"{name} is not as it was written (its SHA-256 differs)")
    for entry in manifest.get("saes", []):
        try:
            checked_sae(directory, entry)
        except InputError as error:
            problems.append(str(error))
    if not problems:  # whole files that cannot be read or do not fit together
        try:
            atlas = Opened(directory)
            _ = atlas.labels, atlas.prototypes, atlas.stories, atlas.emotion_index, atlas.story_index
        except InputError as error:
            problems.append(str(error))
    return problems
