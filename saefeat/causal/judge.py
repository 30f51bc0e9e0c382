"""An independent judge of emotion in text: a linear classifier on sentence embeddings, fitted to texts that others
labelled. It shares neither the atlas nor the stories, and no word for an emotion is left in what it reads.

All words of all emotions, with their inflections, are masked both in what the judge is fitted to and in what it
judges: not only those of the emotion that was turned, so that a near-synonym cannot give it away either.

Shapes: N texts, D width of an embedding, C classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saefeat.errors import InputError
from saefeat.label import separated, unit_rows

Embed = Callable[[Sequence[str]], np.ndarray]
"""Texts to (N, D) sentence embeddings."""
L2 = 1.0
"""Of the weights, beside the sum of losses over embeddings of length 1 (sklearn's C = 1)."""
FOLDS = 5
MASK = "…"
NEUTRAL = "no emotion"
ENDINGS = ("ness", "ation", "ing", "ed", "ion", "y", "e")


# ---------------------------------------------------------------- words
def word_mask(emotions: Iterable[str], classes: Iterable[str], families: Mapping[str, str]) -> re.Pattern[str]:
    """A pattern of the words of emotions and classes and their inflections.

    families: emotion → regular expression of its words, as story corpora have; a name that is not in it stands for
    whatever begins with its stem.
    """
    names = dict.fromkeys([*emotions, *classes])
    parts = [families.get(name) or inflected(name) for name in names]
    return re.compile(rf"\b(?:{'|'.join(dict.fromkeys(parts))})\b", re.IGNORECASE)


def inflected(word: str) -> str:
    """A regular expression of a word and of what begins like it: 'sadness' → sad, sadly; 'surprise' → surprising."""
    stem = word.lower()
    for ending in ENDINGS:
        if stem.endswith(ending) and len(stem) - len(ending) >= (3 if ending == "ness" else 4):
            stem = stem.removesuffix(ending)
            break
    return re.escape(stem) + r"\w*"


def masked(texts: Sequence[str], mask: re.Pattern[str]) -> list[str]:
    """The texts with an ellipsis for each masked word, on one line each."""
    return [" ".join(mask.sub(MASK, text).split()) for text in texts]


# ---------------------------------------------------------------- the judge
@dataclass(frozen=True, kw_only=True)
class Judge:
    """A classifier of one labelled file. members: of each class the emotions it stands for, by name (of the class
    without emotion: none). mean_C, sd_C: of the held-out log-odds, the unit of its readings. accuracy: share of
    held-out texts named right, averaged over classes (chance: 1 / C); auroc_C: of held-out log-odds, one class against
    the others; rows: texts it was fitted to."""

    name: str
    classes: tuple[str, ...]
    members: tuple[tuple[str, ...], ...]
    W_DC: np.ndarray
    bias_C: np.ndarray
    mean_C: np.ndarray
    sd_C: np.ndarray
    accuracy: float
    auroc_C: np.ndarray
    rows: int

    def __call__(self, X_ND: np.ndarray) -> np.ndarray:
        """(N, C) log-odds of each class, in standard deviations of the held-out labelled texts."""
        return (log_odds(unit_rows(X_ND) @ self.W_DC + self.bias_C) - self.mean_C) / self.sd_C

    def own(self, emotion: str) -> list[int]:
        """The classes that stand for an emotion."""
        return [c for c, members in enumerate(self.members) if emotion in members]


def fit_judge(
    name: str,
    X_ND: np.ndarray,
    class_N: np.ndarray,
    classes: Sequence[str],
    members: Sequence[Sequence[str]],
    *,
    seed: int = 0,
) -> Judge:
    """A multinomial logistic classifier, classes weighted alike, cross-validated over FOLDS random parts.

    class_N: -1 for a text without emotion, which is a class of its own. Classes without a text are left out. Raises
    InputError: fewer than two classes have FOLDS texts.
    """
    named = [(c, classes[c], tuple(members[c])) for c in range(len(classes))] + [(-1, NEUTRAL, ())]
    kept = [(c, title, own) for c, title, own in named if (class_N == c).sum() >= FOLDS]
    if len(kept) < 2:
        raise InputError(f"needs two classes of at least {FOLDS} texts", where=name)
    rows_M = np.flatnonzero(np.isin(class_N, [c for c, *_ in kept]))
    place = {c: k for k, (c, *_) in enumerate(kept)}
    y_M, X_MD = np.array([place[int(c)] for c in class_N[rows_M]]), unit_rows(X_ND[rows_M])
    C, fold_M = len(kept), _folds(y_M, seed)
    heldout_MC = np.zeros((len(y_M), C))
    for fold in range(FOLDS):
        W_DC, bias_C = fit_logistic(X_MD[fold_M != fold], y_M[fold_M != fold], C)
        heldout_MC[fold_M == fold] = log_odds(X_MD[fold_M == fold] @ W_DC + bias_C)
    hit_M = heldout_MC.argmax(1) == y_M
    sd_C = heldout_MC.std(0)
    W_DC, bias_C = fit_logistic(X_MD, y_M, C)
    return Judge(
        name=name, classes=tuple(title for _, title, _ in kept), members=tuple(own for *_, own in kept), W_DC=W_DC,
        bias_C=bias_C, mean_C=heldout_MC.mean(0), sd_C=np.where(sd_C > 1e-9, sd_C, 1.0),
        accuracy=float(np.mean([hit_M[y_M == c].mean() for c in range(C)])),
        auroc_C=np.array([separated(heldout_MC[y_M == c, c], heldout_MC[y_M != c, c]) for c in range(C)]),
        rows=len(y_M),
    )  # fmt: skip


def judged(judges: Sequence[Judge], scores: Sequence[np.ndarray], emotion: str) -> np.ndarray | None:
    """(N,) the reading of an emotion: mean over the judges that have a class for it (and over their classes of it);
    None if none has. scores: (N, C) of each judge."""
    columns = [own_NC[:, judge.own(emotion)].mean(1) for judge, own_NC in zip(judges, scores, strict=True)
               if judge.own(emotion)]  # fmt: skip
    return np.mean(columns, axis=0) if columns else None


def fit_logistic(X_ND: np.ndarray, y_N: np.ndarray, C: int, l2: float = L2) -> tuple[np.ndarray, np.ndarray]:
    """W_DC and bias_C that minimise Σ_n weight_n CE(softmax(x W + b), y) + l2/2 |W|², by L-BFGS in float64.

    weight: N / (C · texts of the class), so that no class is favoured for being frequent.
    """
    X, y = torch.from_numpy(np.ascontiguousarray(X_ND, np.float64)), torch.from_numpy(np.asarray(y_N, np.int64))
    count_C = torch.bincount(y, minlength=C).clamp(min=1)
    weight_C = len(y) / (C * count_C.double())
    W = torch.zeros(X.shape[1], C, dtype=torch.float64, requires_grad=True)
    b = torch.zeros(C, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [W, b], max_iter=300, tolerance_grad=1e-7, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        loss = torch.nn.functional.cross_entropy(X @ W + b, y, weight=weight_C, reduction="none").sum()
        loss = loss + l2 / 2 * W.square().sum()
        loss.backward()
        return loss

    solver.step(closure)  # type: ignore[arg-type]
    return W.detach().numpy(), b.detach().numpy()


def log_odds(logits_NC: np.ndarray) -> np.ndarray:
    """log p / (1 − p) of each class under a softmax: its logit less the log-sum-exp of the others'."""
    C = logits_NC.shape[1]
    others_NC = np.stack([np.logaddexp.reduce(np.delete(logits_NC, c, axis=1), axis=1) for c in range(C)], axis=1)
    return logits_NC - others_NC


def _folds(y_N: np.ndarray, seed: int) -> np.ndarray:
    """A part for each text, every class spread evenly over them."""
    rng, fold_N = np.random.default_rng(seed), np.zeros(len(y_N), int)
    for c in np.unique(y_N):
        own = rng.permutation(np.flatnonzero(y_N == c))
        fold_N[own] = np.arange(len(own)) % FOLDS
    return fold_N
