"""saefeat from Python: `saefeat.load()` opens an atlas and answers the same questions as the command line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from saefeat.atlas import Atlas, IndexedTexts
from saefeat.corpus import TextItem

__all__ = ["Saefeat", "load"]


def load(name: str | Path | None = None, **settings: Any) -> Saefeat:
    """Open an atlas by name or directory (None: the one that ships).

    settings: device ('auto'), dtype ('auto'), allow_other_weights (False), subject (one that is loaded already).

    >>> import saefeat
    >>> atlas = saefeat.load()
    >>> atlas.nearest("Nobody came to the party.", top=3)["emotions"]   # doctest: +SKIP
    """
    return Saefeat(Atlas.open(name, **settings))


class Saefeat:
    """The verbs of an open atlas; `atlas` is the atlas itself, with all that it knows."""

    def __init__(self, atlas: Atlas) -> None:
        self.atlas = atlas

    def nearest(self, text: str | Iterable[str], **options: Any) -> Any:
        """The emotions nearest to a text: one object for one text, a list for several. See `Atlas.nearest`."""
        if isinstance(text, str):
            return next(iter(self.atlas.nearest([text], **options)))
        return list(self.atlas.nearest(text, **options))

    def encode(self, text: str | Iterable[str], **options: Any) -> Any:
        """Pooled features: one object for one text, a list for several. See `Atlas.encode`."""
        if isinstance(text, str):
            return next(iter(self.atlas.encode([text], **options)))
        return list(self.atlas.encode(text, **options))

    def similar(self, text: str | None = None, **options: Any) -> dict[str, Any]:
        """The stories, or (within=) the texts of an index, nearest to a text, a profile or features.

        within: a directory, or what `texts` opened, which saves opening it for every query. See `Atlas.similar`.
        """
        return self.atlas.similar(text, **options)

    def add_texts(
        self, texts: Iterable[str | TextItem], to: str | Path | None = None, **options: Any
    ) -> dict[str, Any]:
        """Keep the profiles of texts in an index directory (None: the default one). See `Atlas.add_texts`."""
        return self.atlas.add_texts(texts, to, **options).to_dict()

    def texts(self, directory: str | Path) -> IndexedTexts:
        """Open an index of texts for several queries."""
        return IndexedTexts(directory, self.atlas)

    def features(self, emotion: str, **options: Any) -> list[dict[str, Any]]:
        """The features that tell an emotion best. See `Atlas.features`."""
        return self.atlas.features(emotion, **options)

    def feature(self, name: str, **options: Any) -> dict[str, Any]:
        """One feature. See `Atlas.feature`."""
        return self.atlas.feature(name, **options)

    def emotions(self, name: str | None = None) -> Any:
        """All emotions, or one. See `Atlas.emotions`."""
        return self.atlas.emotions(name)
