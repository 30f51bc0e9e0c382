"""The atlas: one directory from which every question about a subject model's emotions and features is answered."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from saefeat.atlas.build import EXAMPLES
from saefeat.atlas.examples import read_examples
from saefeat.atlas.filters import Scalar
from saefeat.atlas.index import emotion_query, search
from saefeat.atlas.indexed import IndexedTexts
from saefeat.atlas.nearest import DIGITS, explain
from saefeat.atlas.opened import Opened
from saefeat.atlas.pooled import Pooled, pooled_texts
from saefeat.atlas.profiles import Added, add_texts
from saefeat.atlas.similar import similar
from saefeat.corpus import TextItem
from saefeat.errors import InputError
from saefeat.label import pool_tokens

MARGIN = 8
"""Candidates taken from the half-precision index beyond those asked for, before they are scored exactly."""


SMALL = 1e-3


class Atlas(Opened):
    """An open atlas and the questions it answers."""

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
        bias + their contributions + rest is that score. stands_out: whether that score is higher than the highest
        of 95 % of flat texts (None: there were none). tokens: adds "tokens", [{"token",
        "score", "used"}], what each token adds to that score: bias + all of them is the score. top, features: None
        for all. keep_going: a text that cannot be read gives {"id", "error"}. Each object depends on its own text
        only.
        """
        if top is not None and top < 1:
            raise InputError(f"top must be at least 1, not {top}", do="pass a number, or all")
        if features is not None and features < 0:
            raise InputError(f"features must not be negative, not {features}")
        for pooled in pooled_texts(self, texts, readout, keep_going):
            if pooled.error is not None:
                yield {"id": pooled.item.id, "error": pooled.error}
                continue
            yield self._nearest(pooled, top, tokens, features)

    def _nearest(self, pooled: Pooled, top: int | None, tokens: bool, features: int | None) -> dict[str, Any]:
        assert pooled.x_F is not None
        E, name = len(self.emotion_names), pooled.readout
        prototype, sae = self.prototypes[name], self.readouts[name]["sae"]
        wanted = E if top is None else min(top, E)
        query = emotion_query(pooled.x_F, self.readouts[name]["scale"], self.width)
        first = list(self.readouts).index(name) * E
        candidates, _ = search(self.emotion_index, query, first=first, count=E, top=wanted + MARGIN)
        candidates = np.sort(candidates)
        exact = prototype.scores(pooled.x_F, candidates)
        order = np.argsort(-exact, kind="stable")[:wanted]
        best, best_score = int(candidates[order[0]]), round(float(exact[order[0]]), DIGITS)
        threshold = self.readouts[name].get("stands_out") if self.manifest["format_version"] > 1 else None
        result: dict[str, Any] = {
            "id": pooled.item.id,
            "readout": name,
            "windows": pooled.windows,
            "stands_out": None if threshold is None else best_score > threshold,
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
        """What each token adds to the score of one emotion: of every feature's contribution, the token's share of
        the feature's activation."""
        sae = self.sae(self.readouts[readout]["sae"])
        ids, acts_TF, usable_T = pool_tokens(self.subject(), text, self.readout_config(readout), sae)
        acts_TF = np.where(usable_T[:, None], acts_TF, 0).astype(np.float64)
        total_F = acts_TF.sum(0)
        x_F = (total_F / max(int(usable_T.sum()), 1)) ** self.readout_config(readout).power
        contribution_F = x_F * self.prototypes[readout].W_FE[:, emotion].astype(np.float64)
        added_T = acts_TF @ np.divide(contribution_F, total_F, out=np.zeros_like(total_F), where=total_F > 0)
        strings = self.subject().token_strings(ids)
        return [
            {"token": token, "score": round(float(added), DIGITS), "used": bool(used)}
            for token, added, used in zip(strings, added_T, usable_T, strict=True)
        ]

    def encode(
        self, texts: Iterable[str | TextItem], *, readout: str | None = None, keep_going: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Pooled SAE features of each text: {"id", "readout", "features": {"L20.12": 0.53}}; readout: the first."""
        for pooled in pooled_texts(self, texts, readout or next(iter(self.readouts)), keep_going):
            if pooled.x_F is None:
                yield {"id": pooled.item.id, "error": pooled.error}
                continue
            sae = self.readouts[pooled.readout]["sae"]
            active = np.flatnonzero(pooled.x_F)
            features = {f"{sae}.{index}": round(float(pooled.x_F[index]), DIGITS) for index in active}
            yield {"id": pooled.item.id, "readout": pooled.readout, "features": features} | self._marks()

    def similar(
        self,
        text: str | None = None,
        *,
        profile: Mapping[str, float] | None = None,
        features: Mapping[str, float] | None = None,
        within: IndexedTexts | Path | str | None = None,
        where: Mapping[str, Scalar] | Sequence[str] = (),
        emotions: Sequence[str] = (),
        top: int | None = 5,
        readout: str = "auto",
    ) -> dict[str, Any]:
        """The stories, or the texts of an index, whose emotion profile is nearest, by cosine (1 is the same
        direction). See `saefeat.atlas.similar`."""
        result = similar(
            self, text, profile=profile, features=features, within=within, where=where, emotions=emotions, top=top,
            readout=readout,
        )  # fmt: skip
        return result | self._marks()

    def add_texts(self, texts: Iterable[str | TextItem], to: Path | str | None = None, **options: Any) -> Added:
        """Keep the profiles of texts in an index directory. See `saefeat.atlas.profiles.add_texts`."""
        return add_texts(self, texts, to, **options)

    # ------------------------------------------------------------ features and emotions
    def features(
        self, emotion: str, *, top: int | None = 10, readout: str | None = None, kind: str | None = None
    ) -> list[dict[str, Any]]:
        """The features that tell an emotion best, with evidence; readout: the first; kind: only those of one kind.

        Raises UnknownName (emotion, readout), InputError (an atlas of format 1 knows no kinds).
        """
        if top is not None and top < 1:
            raise InputError(f"top must be at least 1, not {top}")
        emotion = self.emotion_name(emotion)
        readout = self.check_readout(readout or next(iter(self.readouts)))
        rows = np.flatnonzero((self.labels["emotion"] == emotion) & (self.labels["readout"] == readout))
        if kind is not None:
            if "kind" not in self.labels:
                raise InputError(f"the atlas {self.name} knows no kinds of features", do="label and index it again")
            rows = rows[self.labels["kind"][rows] == kind]
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
        readouts = list(self.readouts)
        place = np.array([readouts.index(readout) for readout in self.labels["readout"][rows]], np.int64)
        rows = rows[np.lexsort((self.labels["rank_for_feature"][rows], place))]
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

    # ------------------------------------------------------------ inside
    def _row(self, row: Any) -> dict[str, Any]:
        """A row of the labels as plain values; NaN is None."""
        plain = {key: _plain(column[row]) for key, column in self.labels.items() if key not in ("sae", "feature")}
        return {"feature": f"{self.labels['sae'][row]}.{self.labels['feature'][row]}", **plain}

    def _marks(self) -> dict[str, Any]:
        return {"other_weights": True} if self.other_weights else {}


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return round(value, DIGITS) if abs(value) >= SMALL else float(f"{value:.4g}")  # p-values can be tiny
    return value
