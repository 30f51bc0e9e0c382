"""The atlas: one directory from which every question about a subject model's emotions and features is answered."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from saefeat.atlas.build import EMOTIONS, EXAMPLES, LABELS, PROTOTYPES, STORIES
from saefeat.atlas.examples import read_examples, read_stories
from saefeat.atlas.index import emotion_query, read_index, search
from saefeat.atlas.locate import MANIFEST, find_atlas, read_manifest
from saefeat.atlas.nearest import DIGITS, Prototype, choose_readout, explain, profile
from saefeat.atlas.verify import checked_sae, verify
from saefeat.config import ReadoutConfig
from saefeat.corpus import Story, TextItem, emotion_name
from saefeat.errors import FormatError, InputError, UnknownName
from saefeat.label import distinctness, pool_texts, pool_tokens
from saefeat.sae import SAE
from saefeat.subject import Fingerprint, Subject, load_subject

CHUNK = 32
MARGIN = 8
"""Candidates taken from the half-precision index beyond those asked for, before they are scored exactly."""
FEATURE_NAME = re.compile(r"(?:(?P<sae>[A-Za-z][\w-]*)\.)?(?P<number>\d{1,9})")


@dataclass(frozen=True)
class Pooled:
    """A text as a readout sees it; or, with `error`, why there is no such thing."""

    item: TextItem
    readout: str = ""
    x_F: np.ndarray | None = None
    windows: int = 0
    error: str | None = None


class Atlas:
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
    def open(cls, name_or_dir: str | Path | None = None, **settings: Any) -> Atlas:
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
    def _width(self) -> int:
        return max(entry["features"] for entry in self.sae_entries.values())

    @cached_property
    def _emotion_index(self) -> Any:
        rows = len(self.readouts) * len(self.emotion_names)
        return read_index(self.directory / EMOTIONS, rows=rows, width=self._width + 1)

    @cached_property
    def _story_index(self) -> Any:
        rows = len(self.readouts) * self.n_stories
        return read_index(self.directory / STORIES, rows=rows, width=len(self.emotion_names))

    def verify(self) -> list[str]:
        """What is wrong with the files of this atlas; [] if they are whole and as they were written."""
        return verify(self.directory)

    # ------------------------------------------------------------ texts
    def nearest(
        self,
        texts: Iterable[str | TextItem],
        *,
        top: int | None = 10,
        readout: str = "auto",
        tokens: bool = False,
        features: int | None = 10,
        keep_going: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """The emotions nearest to each text, one object a text, in order.

        `{"id", "readout", "windows", "stands_out", "emotions": [{"emotion", "score", "family"}], "features":
        [{"feature", "activation", "contribution"}], "rest", "bias"}`: scores are standardised (stories of other
        emotions have mean 0 and sd 1); `features` are those that contribute most to the first emotion's score, and
        bias + their contributions + rest is that score. stands_out: whether that score is further above the text's
        other scores than in 95 % of neutral texts (None: there were none). tokens: adds "tokens", [{"token",
        "score", "used"}], what each token adds to that score: bias + all of them is the score. top, features: None
        for all. keep_going: a text that cannot be read gives {"id", "error"}. Each object depends on its own text
        only.
        """
        if top is not None and top < 1:
            raise InputError(f"top must be at least 1, not {top}", do="pass a number, or all")
        if features is not None and features < 0:
            raise InputError(f"features must not be negative, not {features}")
        for pooled in self._pooled(texts, readout, keep_going):
            if pooled.error is not None:
                yield {"id": pooled.item.id, "error": pooled.error}
                continue
            yield self._nearest(pooled, top, tokens, features)

    def _nearest(self, pooled: Pooled, top: int | None, tokens: bool, features: int | None) -> dict[str, Any]:
        assert pooled.x_F is not None
        E, name = len(self.emotion_names), pooled.readout
        prototype, sae = self.prototypes[name], self.readouts[name]["sae"]
        wanted = E if top is None else min(top, E)
        query = emotion_query(pooled.x_F, self.readouts[name]["scale"], self._width)
        first = list(self.readouts).index(name) * E
        candidates, _ = search(self._emotion_index, query, first=first, count=E, top=wanted + MARGIN)
        candidates = np.sort(candidates)
        exact = prototype.scores(pooled.x_F, candidates)
        order = np.argsort(-exact, kind="stable")[:wanted]
        best, best_score = int(candidates[order[0]]), round(float(exact[order[0]]), DIGITS)
        threshold = self.readouts[name].get("stands_out")
        distinct = float(distinctness(prototype.scores(pooled.x_F)[None])[0])
        result: dict[str, Any] = {
            "id": pooled.item.id,
            "readout": name,
            "windows": pooled.windows,
            "stands_out": None if threshold is None else distinct > threshold,
            "emotions": [
                {
                    "emotion": self.emotion_names[candidates[i]],
                    "score": round(float(exact[i]), DIGITS),
                    "family": self.families.get(self.emotion_names[candidates[i]]),
                }
                for i in order
            ],
            **explain(prototype, pooled.x_F, best, best_score, sae=sae, features=features),
        }
        if tokens:
            assert pooled.item.text is not None
            result["tokens"] = self._tokens(pooled.item.text, name, best)
        return result | self._marks()

    def _tokens(self, text: str, readout: str, emotion: int) -> list[dict[str, Any]]:
        """What each token adds to the score of one emotion: W_e · x_t over the number of tokens pooled."""
        sae = self.sae(self.readouts[readout]["sae"])
        ids, acts_TF, usable_T = pool_tokens(self.subject(), text, self._config(readout), sae)
        added_T = acts_TF.astype(np.float64) @ self.prototypes[readout].W_FE[:, emotion].astype(np.float64)
        added_T = np.where(usable_T, added_T, 0.0) / max(int(usable_T.sum()), 1)
        strings = self.subject().token_strings(ids)
        return [
            {"token": token, "score": round(float(added), DIGITS), "used": bool(used)}
            for token, added, used in zip(strings, added_T, usable_T, strict=True)
        ]

    def encode(
        self, texts: Iterable[str | TextItem], *, readout: str | None = None, keep_going: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Pooled SAE features of each text: {"id", "readout", "features": {"L20.12": 0.53}}; readout: the first."""
        for pooled in self._pooled(texts, readout or next(iter(self.readouts)), keep_going):
            if pooled.x_F is None:
                yield {"id": pooled.item.id, "error": pooled.error}
                continue
            sae = self.readouts[pooled.readout]["sae"]
            active = np.flatnonzero(pooled.x_F)
            features = {f"{sae}.{index}": round(float(pooled.x_F[index]), DIGITS) for index in active}
            yield {"id": pooled.item.id, "readout": pooled.readout, "features": features} | self._marks()

    def similar(self, text: str, *, top: int = 5, readout: str = "auto") -> dict[str, Any]:
        """The stories whose emotion profile is nearest to the text's, by cosine (1 is the same direction):
        {"id", "readout", "stories": [{"story", "similarity", "emotion", "family", "topic", "text"}]}."""
        if top < 1:
            raise InputError(f"top must be at least 1, not {top}")
        pooled = next(self._pooled([text], readout, False))
        assert pooled.x_F is not None
        scores_E = self.prototypes[pooled.readout].scores(pooled.x_F)
        first = list(self.readouts).index(pooled.readout) * self.n_stories
        query = profile(scores_E[None])[0]
        numbers, products = search(self._story_index, query, first=first, count=self.n_stories, top=top)
        rows = []
        for number, product in zip(numbers, products, strict=True):
            story = self.stories[number]
            place = {"emotion": story.emotion, "family": self.families.get(story.emotion), "topic": story.topic}
            rows.append({"story": int(number), "similarity": round(float(product), 4), **place, "text": story.text})
        return {"id": pooled.item.id, "readout": pooled.readout, "stories": rows} | self._marks()

    # ------------------------------------------------------------ features and emotions
    def features(self, emotion: str, *, top: int | None = 10, readout: str | None = None) -> list[dict[str, Any]]:
        """The features that tell an emotion best, with evidence; readout: the first. Raises UnknownName."""
        if top is not None and top < 1:
            raise InputError(f"top must be at least 1, not {top}")
        emotion = self.emotion_name(emotion)
        readout = self.check_readout(readout or next(iter(self.readouts)))
        rows = np.flatnonzero((self.labels["emotion"] == emotion) & (self.labels["readout"] == readout))
        rows = rows[np.argsort(self.labels["rank_for_emotion"][rows], kind="stable")]
        return [self._row(row) for row in rows[:top]]

    def feature(self, name: str, *, words: int = 10) -> dict[str, Any]:
        """One feature: {"feature", "sae", "layer", "labels", "density", "histogram", "examples", "words"}.

        examples: [{"tokens", "activations", "peak", "story", "emotion", "topic"}], the snippets on which it fires
        most. words: {"up", "down"} [{"token", "logit"}], the tokens its decoder direction promotes and suppresses.
        density, histogram are None and examples [] where nothing was gathered. Raises UnknownName, InputError.
        """
        sae, index = self.parse_feature(name)
        rows = np.flatnonzero((self.labels["sae"] == sae) & (self.labels["feature"] == index))
        rows = rows[np.lexsort((self.labels["rank_for_feature"][rows], self.labels["readout"][rows].astype(str)))]
        known = read_examples(self.directory / EXAMPLES, sae, index) or {"density": None, "histogram": None}
        examples = []
        for snippet in known.pop("snippets", []):
            story = self.stories[snippet["story"]]
            tokens = self.subject().token_strings(snippet.pop("ids"))
            examples.append({"tokens": tokens, **snippet, "emotion": story.emotion, "topic": story.topic})
        return {
            "feature": f"{sae}.{index}",
            "sae": sae,
            "layer": self.sae_entries[sae]["layer"],
            "labels": [self._row(row) for row in rows],
            **known,
            "examples": examples,
            "words": self.words(f"{sae}.{index}", top=words),
        } | self._marks()

    def words(self, name: str, *, top: int = 10) -> dict[str, list[dict[str, Any]]]:
        """The tokens that a feature's decoder direction makes more and less likely (logit lens)."""
        sae, index = self.parse_feature(name)
        logits_V = self.subject().unembed(self.sae(sae).W_dec_FD[index : index + 1].float())[0]
        found = {}
        for key, largest in (("up", True), ("down", False)):
            values, ids = logits_V.topk(min(top, len(logits_V)), largest=largest)
            tokens = [self.subject().token_strings([int(i)])[0] for i in ids]
            found[key] = [{"token": t, "logit": round(float(v), 4)} for t, v in zip(tokens, values, strict=True)]
        return found

    def emotions(self, name: str | None = None) -> list[dict[str, Any]] | dict[str, Any]:
        """All emotions, [{"emotion", "family"}], by family; or one of them:
        {"emotion", "family", "members" of its family, "nearest": [{"emotion", "similarity"}], "features"}."""
        if name is None:
            rows = [{"emotion": emotion, "family": self.families.get(emotion)} for emotion in self.emotion_names]
            return sorted(rows, key=lambda row: (row["family"] or "", row["emotion"]))
        emotion = self.emotion_name(name)
        family = self.families.get(emotion)
        W_FE = next(iter(self.prototypes.values())).W_FE
        unit_FE = W_FE / np.maximum(np.linalg.norm(W_FE, axis=0), 1e-12)
        own = self.emotion_names.index(emotion)
        cosine_E = unit_FE.T @ unit_FE[:, own]
        near = [e for e in np.argsort(-cosine_E, kind="stable") if e != own][:8]
        return {
            "emotion": emotion,
            "family": family,
            "members": [e for e in self.emotion_names if self.families.get(e) == family],
            "nearest": [{"emotion": self.emotion_names[e], "similarity": round(float(cosine_E[e]), 4)} for e in near],
            "features": self.features(emotion, top=5),
        }

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

    # ------------------------------------------------------------ inside
    def _row(self, row: Any) -> dict[str, Any]:
        """A row of the labels as plain values; NaN is None."""
        plain = {key: _plain(column[row]) for key, column in self.labels.items() if key not in ("sae", "feature")}
        return {"feature": f"{self.labels['sae'][row]}.{self.labels['feature'][row]}", **plain}

    def _config(self, readout: str) -> ReadoutConfig:
        told = self.readouts[readout]
        return ReadoutConfig(name=readout, pool=told["pool"], continuation=told["continuation"])

    def _marks(self) -> dict[str, Any]:
        return {"other_weights": True} if self.other_weights else {}

    def _pooled(self, texts: Iterable[str | TextItem], readout: str, keep_going: bool) -> Iterator[Pooled]:
        """Texts pooled a chunk at a time, in order."""
        readout = choose_readout(self.readouts) if readout == "auto" else readout
        self.check_readout(readout)
        chunk: list[TextItem] = []
        for number, text in enumerate(texts, 1):
            chunk.append(TextItem(str(number), text) if isinstance(text, str) else text)
            if len(chunk) == CHUNK:
                yield from self._pool_chunk(chunk, readout, keep_going)
                chunk = []
        if chunk:
            yield from self._pool_chunk(chunk, readout, keep_going)

    def _pool_chunk(self, chunk: list[TextItem], readout: str, keep_going: bool) -> list[Pooled]:
        done: list[Pooled | None] = [None] * len(chunk)
        for i, item in enumerate(chunk):
            try:
                self._check_text(item)
            except InputError as error:
                if not keep_going:
                    raise
                done[i] = Pooled(item, error=item.error or error.what)
        members = [i for i, pooled in enumerate(done) if pooled is None]
        if members:
            sae, config = self.sae(self.readouts[readout]["sae"]), self._config(readout)
            pools = pool_texts(self.subject(), [str(chunk[i].text) for i in members], [config], {readout: sae})
            for row, i in enumerate(members):
                windows = int(pools.n_windows_N[row]) if config.pool == "mean" else 1
                done[i] = Pooled(chunk[i], readout, pools.features[readout][row], windows)
        return [pooled for pooled in done if pooled is not None]

    def _check_text(self, item: TextItem) -> None:
        """Raises InputError for what cannot be read as a text."""
        where = f"text {item.id}"
        if item.error is not None:
            raise InputError(item.error, where=where)
        if item.text is None:
            raise InputError("is a conversation, not a text", where=where, do='give it as {"text": ...}')
        try:
            item.text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError("is not UTF-8 text", where=where) from error
        if not item.text.strip():
            raise InputError("the text is empty", where=where, do="pass some words")


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float):
        return round(value, DIGITS) if math.isfinite(value) else None
    return value
