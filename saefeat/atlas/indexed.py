"""An index of texts, open: whose profiles it holds, and the rows nearest to a profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from saefeat.atlas import lists
from saefeat.atlas.build import PROTOTYPES
from saefeat.atlas.exact import best, exact
from saefeat.atlas.filters import Scalar, Threshold, kept
from saefeat.atlas.opened import Opened
from saefeat.atlas.rows import Rows, read_manifest
from saefeat.errors import ModelMismatch
from saefeat.files import fingerprint, home
from saefeat.subject import Fingerprint


def default_directory(atlas: Opened) -> Path:
    """Where texts are added to unless a directory is named: `$SAEFEAT_HOME/texts/ATLAS`."""
    return home() / "texts" / atlas.name


def told_of(atlas: Opened, readout: str) -> dict[str, Any]:
    """What determines a profile, for the manifest of an index: the atlas by name, and by a fingerprint of the model's
    architecture and tokenizer, the readout's settings, its SAE's weights and its prototypes; and the emotions."""
    settings = atlas.readouts[readout]
    sae = atlas.sae_entries[settings["sae"]]
    subject = {"architecture": atlas.fingerprint.architecture, "tokenizer": atlas.fingerprint.tokenizer}
    parts = {
        "subject": subject,
        "readout": settings,
        "sae": sae["sha256"],
        "prototypes": atlas.manifest["files"][PROTOTYPES],
    }
    return {
        "atlas": {"name": atlas.name, "fingerprint": fingerprint([parts, list(atlas.emotion_names)])},
        "readout": readout,
        "emotions": list(atlas.emotion_names),
    }


def check_same(atlas: Opened, manifest: Mapping[str, Any], where: Path) -> None:
    """Raise ModelMismatch unless `atlas` is the one whose profiles an index holds."""
    readout, theirs = manifest["readout"], manifest["atlas"]
    if readout in atlas.readouts and told_of(atlas, readout)["atlas"]["fingerprint"] == theirs["fingerprint"]:
        return
    what = f"holds profiles that another atlas read ({theirs['name']}, {theirs['fingerprint']}), not {atlas.name}"
    raise ModelMismatch(what, where=where, do="name that one with --atlas, or add the texts again elsewhere")


def check_weights(atlas: Opened, manifest: Mapping[str, Any], where: Path) -> None:
    """Raise ModelMismatch unless the model in use is the one that read the texts, or others are allowed."""
    known = Fingerprint.from_dict({**atlas.fingerprint.to_dict(), "weights": manifest["weights"]})
    known.check(atlas.subject().fingerprint, allow_other_weights=atlas.allows_other_weights, where=where)


class IndexedTexts:
    """The texts in a directory, each with its profile. readout: the one all of them were read with."""

    def __init__(self, directory: Path | str, atlas: Opened, *, verify: bool = True) -> None:
        """Open `directory`; verify: check its checksums. Raises FormatError, ModelMismatch."""
        self.directory = Path(directory)
        check_same(atlas, read_manifest(self.directory), self.directory)
        self.rows = Rows.open(self.directory, verify=verify)
        self.manifest = self.rows.manifest
        self.readout: str = self.manifest["readout"]

    def __len__(self) -> int:
        return self.rows.n

    @cached_property
    def lists(self) -> lists.Lists | None:
        """What finds candidates among many rows; None where search is exact."""
        return lists.read(self.directory, self.manifest["search"]) if self.manifest["search"] else None

    def nearest(
        self,
        profile_E: np.ndarray,
        *,
        top: int,
        where: Mapping[str, Scalar] | None = None,
        emotions: Sequence[Threshold] = (),
    ) -> tuple[np.ndarray, np.ndarray, bool]:
        """(numbers, cosines, whether every row was compared) of the `top` rows nearest to a unit profile.

        Exact with conditions, with few rows, and where many rows are asked for; else rows in the lists are found with
        the recall in the manifest, those beyond them exactly.
        """
        profile_E = np.ascontiguousarray(profile_E, np.float32)
        keep_N = kept(self.rows, where or {}, emotions)
        if keep_N is not None or top > lists.MOST or self.lists is None:
            return *exact(self.rows.profiles_NE, profile_E, top=top, keep_N=keep_N), True
        number_K, product_K = self.lists.search(self.rows.profiles_NE, profile_E, top)
        new_K, new_product_K = exact(self.rows.profiles_NE, profile_E, top=top, first=self.lists.rows)
        both = np.concatenate([number_K, new_K]), np.concatenate([product_K, new_product_K])
        return *best(*both, top), False

    def told(self, number: int, *, emotions: int = 3) -> dict[str, Any]:
        """{"id", "emotions": [{"emotion", "score"}], "text", "fields"} of a row; text: its beginning."""
        mean, length = self.rows.levels_N2[number]
        score_E = mean + length * self.rows.profiles_NE[number]
        record, names = self.rows.record(number), self.manifest["emotions"]
        first = np.argsort(-score_E, kind="stable")[:emotions]
        scores = [{"emotion": names[e], "score": round(float(score_E[e]), 4)} for e in first]
        return {"id": record["id"], "emotions": scores, "text": record["text"], "fields": record["fields"]}
