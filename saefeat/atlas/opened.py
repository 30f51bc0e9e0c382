"""An open atlas: its files, model and SAEs, each loaded and checked when first needed."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from saefeat.atlas.build import EXAMPLES, LABELS, PROTOTYPES, STORIES
from saefeat.atlas.examples import read_stories
from saefeat.atlas.index import emotion_rows, make_index, read_index
from saefeat.atlas.locate import MANIFEST, find_atlas, read_manifest
from saefeat.atlas.nearest import Prototype
from saefeat.atlas.verify import checked_sae, verify
from saefeat.config import ReadoutConfig
from saefeat.corpus import Story, emotion_name
from saefeat.errors import FormatError, InputError, UnknownName
from saefeat.sae import SAE
from saefeat.subject import Fingerprint, Subject, load_subject

FEATURE_NAME = re.compile(r"(?:(?P<sae>[A-Za-z][\w-]*)\.)?(?P<number>\d{1,9})")


class Opened:
    """An open atlas. Cheap to open: the model, SAEs, labels and indexes are loaded when first needed.

    manifest: atlas.json. emotions, families (emotion → family), topics; readouts: name → settings.
    """

    def __init__(
        self,
        directory: Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        allow_other_weights: bool = False,
        subject: Subject | None = None,
    ) -> None:
        self.directory = directory
        self.manifest = read_manifest(directory)
        self._device, self._dtype, self._allow = device, dtype, allow_other_weights
        self.other_weights = False
        try:
            self.name: str = self.manifest["name"]
            self.emotion_names: tuple[str, ...] = tuple(self.manifest["emotions"])
            self.families: dict[str, str] = self.manifest["families"]
            self.topics: tuple[str, ...] = tuple(self.manifest["topics"])
            self.readouts: dict[str, dict[str, Any]] = {r["name"]: r for r in self.manifest["readouts"]}
            self.sae_entries: dict[str, dict[str, Any]] = {s["name"]: s for s in self.manifest["saes"]}
            self.n_stories: int = self.manifest["stories"]
            self.fingerprint = Fingerprint.from_dict(self.manifest["subject"])
            self.subject_name: str = self.manifest["subject"]["name"]
        except (KeyError, TypeError) as error:
            raise FormatError(f"is incomplete ({error})", where=directory / MANIFEST) from error
        self._subject: Subject | None = None
        self._saes: dict[str, SAE] = {}
        if subject is not None:
            self._use(subject)

    @classmethod
    def open(cls, name_or_dir: str | Path | None = None, **settings: Any) -> Self:
        """Open an atlas by name or directory; None: the one that ships.

        settings: device, dtype (of the subject model), allow_other_weights, subject (one loaded already). Raises
        UnknownName, FormatError (corrupt, or of a newer format), ModelMismatch.
        """
        return cls(find_atlas(name_or_dir), **settings)

    # ------------------------------------------------------------ parts, loaded when needed
    def subject(self) -> Subject:
        """The language model. Raises MissingModel, ModelMismatch."""
        if self._subject is None:
            self._use(load_subject(self.subject_name, device=self._device, dtype=self._dtype))
        assert self._subject is not None
        return self._subject

    def _use(self, subject: Subject) -> None:
        where = f"the atlas {self.name}"
        self.fingerprint.check(subject.fingerprint, allow_other_weights=self._allow, where=where)
        self.other_weights = self.fingerprint.weights != subject.fingerprint.weights
        self._subject = subject

    @property
    def allows_other_weights(self) -> bool:
        """Whether a model with other weights than those the atlas was made with may be used."""
        return self._allow

    @property
    def primary(self) -> str:
        """The name of the SAE that a bare feature number means."""
        return next(iter(self.sae_entries))

    def sae(self, name: str | None = None) -> SAE:
        """An SAE by name, on the subject's device if that is loaded. Raises UnknownName, FormatError."""
        name = name or self.primary
        if name not in self.sae_entries:
            raise UnknownName("SAE", name, self.sae_entries, do="the SAEs are " + ", ".join(self.sae_entries))
        if name not in self._saes:
            self._saes[name] = checked_sae(self.directory, self.sae_entries[name])
        if self._subject is not None:
            self._saes[name] = self._saes[name].to(self._subject.device)
        return self._saes[name]

    @cached_property
    def prototypes(self) -> dict[str, Prototype]:
        """Readout → its linear map."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        path = self.directory / PROTOTYPES
        try:
            tensors = load_file(path)
            return {
                name: Prototype(
                    tensors[f"{name}.W_FE"].astype(np.float32) * np.float32(readout["scale"]), tensors[f"{name}.bias_E"]
                )
                for name, readout in self.readouts.items()
            }
        except (OSError, SafetensorError, KeyError) as error:
            raise FormatError(f"is missing or corrupt ({error})", where=path, do="make the index again") from error

    @cached_property
    def labels(self) -> dict[str, np.ndarray]:
        """The table of labels as columns: sae, feature, emotion, readout, auroc, heldout_auroc, …"""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.directory / LABELS
        try:
            table = pq.read_table(path)
            columns = {name: table[name].to_numpy() for name in table.column_names}
            for name in ("sae", "feature", "emotion", "readout", "auroc", "rank_for_emotion", "rank_for_feature"):
                columns[name]
            return columns
        except (OSError, pa.ArrowException, KeyError) as error:
            raise FormatError(f"is missing or corrupt ({error})", where=path, do="make the index again") from error

    @cached_property
    def stories(self) -> list[Story]:
        """The stories behind the atlas, by number."""
        return read_stories(self.directory / EXAMPLES)

    @cached_property
    def width(self) -> int:
        return max(entry["features"] for entry in self.sae_entries.values())

    @cached_property
    def emotion_index(self) -> Any:
        """The prototypes of all readouts for `search`, in the order of the readouts."""
        scales = {name: told["scale"] for name, told in self.readouts.items()}
        triples = [(one.W_FE, one.bias_E, scales[name]) for name, one in self.prototypes.items()]
        return make_index(emotion_rows(triples, self.width))

    @cached_property
    def story_index(self) -> Any:
        rows = len(self.story_readouts) * self.n_stories
        return read_index(self.directory / STORIES, rows=rows, width=len(self.emotion_names))

    @cached_property
    def story_readouts(self) -> list[str]:
        """The readouts in which the stories have profiles, in the order of their index."""
        return [name for name, told in self.readouts.items() if told.get("stories", True)]

    @property
    def text_readouts(self) -> list[str]:
        """The readouts that are fitted on texts alone: those that features are labelled by."""
        return [name for name, told in self.readouts.items() if not told.get("dialogues")]

    def verify(self) -> list[str]:
        """What is wrong with the files of this atlas; [] if they are whole and as they were written."""
        return verify(self.directory)

    # ------------------------------------------------------------ names
    def emotion_name(self, text: str) -> str:
        """The emotion that `text` spells ('At-Ease' is 'at ease'). Raises UnknownName with the nearest spellings."""
        return emotion_name(text, self.emotion_names)

    def parse_feature(self, name: str) -> tuple[str, int]:
        """('L20', 1234) of 'L20.1234'; a bare number is of the primary SAE. Raises InputError, UnknownName."""
        match = FEATURE_NAME.fullmatch(name.strip())
        if match is None:
            raise InputError(f"{name!r} is not a feature's name", do=f"write it like {self.primary}.1234")
        sae, index = match["sae"] or self.primary, int(match["number"])
        if sae not in self.sae_entries:
            raise UnknownName("SAE", sae, self.sae_entries, do="the SAEs are " + ", ".join(self.sae_entries))
        count = self.sae_entries[sae]["features"]
        if index >= count:
            raise InputError(f"there is no feature {sae}.{index}", do=f"{sae} has features 0 to {count - 1}")
        return sae, index

    def check_readout(self, name: str) -> str:
        """`name` if the atlas has this readout. Raises UnknownName."""
        if name not in self.readouts:
            raise UnknownName("readout", name, self.readouts, do="this atlas has " + ", ".join(self.readouts))
        return name

    def readout_config(self, name: str) -> ReadoutConfig:
        """Where and with what pool a readout reads."""
        told = self.readouts[name]
        settings: dict[str, Any] = {
            key: told[key] for key in ("pool", "continuation", "frame", "stories", "below") if key in told
        }
        settings |= {key: tuple(told.get(key, ())) for key in ("also", "dialogues")}
        return ReadoutConfig(name=name, power=told.get("power", 1.0), **settings)
