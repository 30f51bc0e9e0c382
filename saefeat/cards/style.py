"""How cards write things: numbers, tokens, file names, and the sentences that every card carries."""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

CLAIM = "Nothing here claims that a model feels anything: a functional emotion is a pattern in activations."
NAME_LENGTH = 80
"""Characters of a card's file name before its ending."""


def number(value: Any, digits: int = 3) -> str:
    """A number as people write it: three significant digits, a real minus sign, a dash for what is not known."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, int):
        text = f"{value:,}"
    elif value != 0 and not 1e-4 <= abs(value) < 1e6:
        text = f"{value:.{digits - 1}e}"
    else:
        decimals = digits - 1 - int(f"{value:.{digits - 1}e}".split("e")[1]) if value else 0  # of the rounded value
        text = f"{value:.{max(0, decimals)}f}"
    return _minus(text)


def decimal(value: Any, decimals: int = 2) -> str:
    """A number of known size (a cosine, a score) with the same decimals throughout a column."""
    return "–" if value is None or not math.isfinite(value) else _minus(f"{value:.{decimals}f}")


def _minus(text: str) -> str:
    if not text.startswith("-"):
        return text
    return text[1:] if not text.strip("-0.") else "−" + text[1:]


def percent(share: Any) -> str:
    """A share as per cent; below a hundredth of a per cent as 1 in n."""
    if share is None or (isinstance(share, float) and not math.isfinite(share)):
        return "–"
    if 0 < share < 1e-4:
        return f"1 in {round(1 / share):,}"
    return f"{number(100 * float(share))} %"


def auroc(value: Any) -> str:
    """An AUROC with its two decimals, never rounded up to a perfect 1."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{min(value, 0.999):.3f}" if 0.995 <= value < 1 else f"{value:.2f}"


def rate(value: Any) -> str:
    """A p- or q-value: two digits, small ones as powers of ten."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.2g}" if value >= 0.001 else f"{value:.0e}"


def visible(token: str) -> str:
    """A token with its line breaks, tabs and control characters made visible; spaces stay."""
    marks = {"\n": "⏎", "\r": "␍", "\t": "⇥", "\x7f": "␡"}
    return "".join(marks.get(c) or (chr(0x2400 + ord(c)) if c < " " else c) for c in token)


def word(token: str) -> str:
    """A token of the vocabulary, standing alone: the space it starts with is shown as ␣."""
    shown = visible(token)
    return "␣" * (len(shown) - len(shown.lstrip(" "))) + shown.lstrip(" ")


def file_names(names: Iterable[str], *, taken: Iterable[str] = ("index",)) -> dict[str, str]:
    """{card's name: file name without ending}, safe on every file system and different even where case is not.

    'at ease' becomes at-ease; letters of any script stay; what would collide or be empty gets a short hash.
    """
    used = {name.casefold() for name in taken}
    files: dict[str, str] = {}
    for name in names:
        if name in files:
            continue
        plain = unicodedata.normalize("NFC", name)
        stem = re.sub(r"[^\w.]+", "-", plain).strip("-.")[:NAME_LENGTH]
        while len(stem.encode()) > 2 * NAME_LENGTH:
            stem = stem[:-1]
        if not stem or stem.casefold() in used:
            stem = f"{stem}-{hashlib.sha256(name.encode()).hexdigest()[:8]}".lstrip("-")
        used.add(stem.casefold())
        files[name] = stem
    return files


def ranged(value: Mapping[str, Any]) -> str:
    """A value with its interval in brackets, if it has one."""
    if value["value"] is None or value["low"] is None or value["high"] is None:
        return decimal(value["value"])
    return f"{decimal(value['value'])} ({decimal(value['low'])} to {decimal(value['high'])})"


def plain(value: Any) -> Any:
    """`value` in what JSON can hold: numpy numbers and arrays unwrapped, tuples as lists, NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # numpy and torch, arrays and scalars
        return plain(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def evidence_sentence(labels: Sequence[Mapping[str, Any]], n_emotions: int) -> str:
    """What the first label's evidence says in a plain sentence; atlases of format 1 hold none ready-made."""
    if not labels:
        return f"None of the atlas's {n_emotions} emotions is linked to this feature: no label stands on evidence."
    first = labels[0]
    if first.get("says"):
        return str(first["says"])
    held = first.get("heldout_auroc")
    known = held is not None and math.isfinite(held)
    value = held if known else first.get("auroc")
    folds = first.get("folds") or 0
    left_out = f"on {folds} topic{'' if folds == 1 else 's'}, each left out when the feature was chosen"
    where = left_out if known else "on the topics it was chosen on, so this is optimistic"
    if value is None:
        return f"This feature is listed for {first['emotion']!r} without a measured AUROC."
    return (
        f"Of two stories on one topic, one of them written to convey {first['emotion']!r}, this feature is the more "
        f"active in the {first['emotion']!r} story {100 * value:.0f} % of the time (chance: 50 %), measured {where}."
    )


def causal_sentence(evidence: Mapping[str, Any]) -> str:
    """What a study says of turning one emotion or feature, in plain sentences."""
    effect, emotion = evidence["effect"], evidence["emotion"]
    texts = f"{evidence['texts']} texts of at most {evidence['tokens']} tokens"
    if effect is None:
        return f"Turned in {texts}, it left none surgical at a strength above 0, so nothing is said of its effect."
    said = (
        f"Turned up by {effect['strength']:g} mean norms in {texts}, {emotion!r} rises by {decimal(effect['rise'])} sd "
        f"as the atlas reads them, which is rank {effect['rank']} of {effect['of']} emotions; perplexity is "
        f"{decimal(effect['ratio'])} times, distinct 3-grams {decimal(effect['distinct'])} times those without."
    )
    judged = [r for r in evidence["responses"] if r["independent"]]
    if not judged:
        return said + " No independent judge covers it."
    return said + f" Independent judges, words for emotions masked: {judged[0]['verdict']} (p {_p(judged[0]['p'])})."


def _p(p: float | None) -> str:
    return "unknown" if p is None else f"= {rate(p)}"
