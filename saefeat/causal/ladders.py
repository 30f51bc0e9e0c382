"""Ladders: one message with a number that is turned up; does the reading of the expected emotions follow it?

A ladder's score is the mean of the emotions that should rise less the mean of those that should fall, and its figure
is Spearman's ρ of that score with the step. It is read at the writer's turn and where the reply starts.

Nulls: random contrasts (so many emotions up and so many down, drawn at random, scored on the same readings: a number
moves every reading, and many contrasts follow it); shuffled labels (the emotions of other ladders); a scorer of another
kind, such as sentence embeddings. No constant answer can follow a ladder, so there is none.

Shapes: L ladders, V steps, E emotions, R random draws.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saefeat.atlas import Atlas
from saefeat.causal.proportions import clustered_mean
from saefeat.causal.scenario_figures import Dots, dots_figure
from saefeat.causal.tables import PARTS, Ids, cell, is_odd, parts, row, section
from saefeat.errors import InputError
from saefeat.files import shipped
from saefeat.trace import reply_readout, trace, turn_readout

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Scorer = Callable[[Sequence[str]], np.ndarray]
"""Texts to (N, E) scores of the atlas's emotions."""
Progress = Callable[[int, int], None] | None
CONTRASTS = 1000
FOLLOWS = 0.8
"""ρ from which a reading is said to follow a ladder."""
WRITER, REPLY, SCORER = "writer's turn", "start of the reply", "sentence embeddings"


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """A message by step, and the columns of the emotions that should rise and fall with it."""

    id: str
    texts: tuple[str, ...]
    rises: tuple[int, ...]
    falls: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Followed:
    """How readings follow ladders. rho_L; null_LR: of random contrasts of the same sizes; shuffled_LM: ρ of ladder l
    with the emotions of ladder m."""

    rho_L: np.ndarray
    null_LR: np.ndarray
    shuffled_LM: np.ndarray

    @property
    def p_L(self) -> np.ndarray:
        """By ladder, the chance that a random contrast follows as well."""
        return at_least(self.rho_L[:, None], self.null_LR)

    def of(self, ladders: np.ndarray) -> Followed:
        """The same of some ladders; labels are shuffled among them only."""
        return Followed(
            rho_L=self.rho_L[ladders],
            null_LR=self.null_LR[ladders],
            shuffled_LM=self.shuffled_LM[np.ix_(ladders, ladders)],
        )


@dataclass
class LadderStudy:
    """results: {"sections"}; figure: of those ladders."""

    results: dict[str, Any]
    figure: Figure
    followed: Mapping[str, Followed] = field(default_factory=dict)


def read_ladders(emotions: Sequence[str], path: Path | None = None) -> list[Ladder]:
    """The ladders of a file (None: those that ship) whose emotions are all known. Raises InputError."""
    path = path or shipped("corpora") / "scenarios" / "ladders.jsonl"
    number = {emotion: i for i, emotion in enumerate(emotions)}
    ladders = []
    for line_number, line in enumerate(_lines(path), 1):
        try:
            told = json.loads(line)
            texts = tuple(told["template"].replace("{x}", str(value)) for value in told["values"])
            names = [tuple(told[side]) for side in ("rises", "falls")]
            is_odd(str(told["id"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"is no ladder ({error})", where=f"{path} line {line_number}") from error
        if len(texts) < 3 or not all(names):
            raise InputError("needs 3 values, rises and falls", where=f"{path} line {line_number}")
        if all(name in number for side in names for name in side):
            rises, falls = (tuple(number[name] for name in side) for side in names)
            ladders.append(Ladder(id=str(told["id"]), texts=texts, rises=rises, falls=falls))
    if not ladders:
        raise InputError("holds no ladder whose emotions this atlas knows", where=path)
    return ladders


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error})", where=path) from error


# ---------------------------------------------------------------- the statistic
def midranks(x_RV: np.ndarray) -> np.ndarray:
    """Ranks 1..V of each row, ties sharing their mean rank."""
    below_RV = (x_RV[..., None, :] < x_RV[..., :, None]).sum(-1)
    equal_RV = (x_RV[..., None, :] == x_RV[..., :, None]).sum(-1)
    return below_RV + (equal_RV + 1) / 2


def spearman(x_RV: np.ndarray, y_V: np.ndarray) -> np.ndarray:
    """Spearman's ρ (R,) of each row with y; 0 of a row (or y) that does not vary."""
    a_RV, b_V = midranks(np.asarray(x_RV, float)), midranks(np.asarray(y_V, float))
    a_RV, b_V = a_RV - a_RV.mean(-1, keepdims=True), b_V - b_V.mean()
    length_R = np.sqrt((a_RV**2).sum(-1) * (b_V**2).sum())
    return np.divide(a_RV @ b_V, length_R, out=np.zeros_like(length_R), where=length_R > 0)


def contrast(scores_VE: np.ndarray, rises: Sequence[int], falls: Sequence[int]) -> np.ndarray:
    """(V,) mean of the scores that should rise less the mean of those that should fall."""
    return scores_VE[:, list(rises)].mean(1) - scores_VE[:, list(falls)].mean(1)


def random_rhos(scores_VE: np.ndarray, n_rises: int, n_falls: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """(R,) ρ with the step of `draws` contrasts of random, distinct emotions."""
    V, E = scores_VE.shape
    if n_rises + n_falls > E:
        raise InputError(f"{E} emotions are too few for contrasts of {n_rises} and {n_falls}")
    chosen_RE = rng.random((draws, E)).argsort(1)[:, : n_rises + n_falls]
    drawn_RCV = scores_VE.T[chosen_RE]
    return spearman(drawn_RCV[:, :n_rises].mean(1) - drawn_RCV[:, n_rises:].mean(1), np.arange(V))


def follow(ladders: Sequence[Ladder], scores: Sequence[np.ndarray], *, seed: int, draws: int = CONTRASTS) -> Followed:
    """scores: of each ladder (V, E)."""
    rng = np.random.default_rng(seed)
    rho_LM = np.array([
        [float(spearman(contrast(scores_VE, m.rises, m.falls)[None], np.arange(len(scores_VE)))[0]) for m in ladders]
        for scores_VE in scores
    ])  # fmt: skip
    null = [
        random_rhos(scores_VE, len(one.rises), len(one.falls), draws, rng)
        for one, scores_VE in zip(ladders, scores, strict=True)
    ]
    return Followed(rho_L=rho_LM.diagonal().copy(), null_LR=np.array(null), shuffled_LM=rho_LM)


def at_least(value: np.ndarray, null_R: np.ndarray) -> np.ndarray:
    """One-sided permutation p (Phipson & Smyth 2010): (1 + how many of the null reach the value) / (1 + R)."""
    return (1 + (null_R >= value - 1e-12).sum(-1)) / (1 + null_R.shape[-1])


def shuffled(followed: Followed, draws: int, seed: int) -> np.ndarray:
    """(R, L) ρ with labels permuted among the ladders."""
    rng, L = np.random.default_rng(seed), len(followed.rho_L)
    return np.array([followed.shuffled_LM[np.arange(L), rng.permutation(L)] for _ in range(draws)])


# ---------------------------------------------------------------- the study
def study_ladders(
    atlas: Atlas,
    ladders: Sequence[Ladder],
    *,
    ids: Ids = "all",
    scorer: Scorer | None = None,
    seed: int = 0,
    on_progress: Progress = None,
) -> LadderStudy:
    """Read ladders at both places, and by `scorer`, which reads the message alone. ids: even, odd or all."""
    ladders = [one for one in ladders if ("odd" if is_odd(one.id) else "even") in parts(ids)]
    if not ladders:
        raise InputError(f"there is no ladder with {ids} numbers")
    read = read_places(atlas, [text for one in ladders for text in one.texts], on_progress)
    if scorer is not None:
        read[SCORER] = scorer([text for one in ladders for text in one.texts])
    ends = np.cumsum([len(one.texts) for one in ladders])
    followed = {place: follow(ladders, np.split(scores_NE, ends[:-1]), seed=seed) for place, scores_NE in read.items()}
    odd_L = np.array([is_odd(one.id) for one in ladders])
    sections = [
        _summary(part, {place: f.of(np.flatnonzero(odd_L == (part == "odd"))) for place, f in followed.items()}, seed)
        for part in parts(ids)
    ]
    sections[0]["notes"] = [read_by(atlas)]
    sections.append(_each(atlas.emotion_names, ladders, followed))
    figure = _figure([_name(atlas.emotion_names, one) for one in ladders], followed, seed)
    return LadderStudy({"sections": sections}, figure, followed)


def read_places(atlas: Atlas, texts: Sequence[str], on_progress: Progress = None) -> dict[str, np.ndarray]:
    """{place: (N, E)} of single messages: the writer's turn, and the start of the reply."""
    rows: dict[str, list[np.ndarray]] = {WRITER: [], REPLY: []}
    for done, text in enumerate(texts, 1):
        (turn,) = trace(atlas, [{"role": "user", "content": text}]).turns
        assert turn.profile is not None
        assert turn.reply_start is not None
        rows[WRITER].append(turn.profile)
        rows[REPLY].append(turn.reply_start)
        if on_progress:
            on_progress(done, len(texts))
    return {place: np.array(own) for place, own in rows.items()}


def read_by(atlas: Atlas) -> str:
    """A note on which readouts read."""
    return f"Turns are read by the readout '{turn_readout(atlas)}', reply starts by '{reply_readout(atlas)}'."


def _summary(part: str, followed: Mapping[str, Followed], seed: int) -> dict[str, Any]:
    rows = []
    for place, f in followed.items():
        own = place != SCORER
        item_L = np.arange(len(f.rho_L))
        rows.append(
            row(
                f"atlas, {place}" if own else place,
                [
                    f"{int((f.rho_L >= FOLLOWS).sum())} of {len(f.rho_L)}",
                    cell(*clustered_mean(f.rho_L, item_L, seed)),
                    cell(float(at_least(np.array((f.rho_L >= FOLLOWS).sum()), (f.null_LR >= FOLLOWS).sum(0)))),
                    cell(float(at_least(f.rho_L.mean(), f.null_LR.mean(0)))),
                ],
                own=own,
                null=not own,
            )
        )
        if own:
            rows += [
                row(f"random contrasts, {place}", _null_values(f.null_LR.T), null=True),
                row(f"shuffled labels, {place}", _null_values(shuffled(f, CONTRASTS, seed)), null=True),
            ]
    about = (
        f"Ladders whose score follows the number (Spearman's ρ ≥ {FOLLOWS:g}), and ρ averaged over ladders (95 % "
        f"interval by bootstrap over ladders; of nulls the middle 95 % of {CONTRASTS:,} draws). p: the chance that "
        "random contrasts of the same sizes do as well, by count and by mean."
    )
    columns = {"ρ ≥ .8": "number", "mean ρ": "number", "p (count)": "number", "p (mean)": "number"}
    return section(f"ladders-{part}", f"Ladders, {PARTS[part]}", about, columns, rows)


def _null_values(rho_RL: np.ndarray) -> list[Any]:
    mean_R, count_R = rho_RL.mean(1), (rho_RL >= FOLLOWS).sum(1)
    low, high = np.quantile(mean_R, [0.025, 0.975])
    return [f"{count_R.mean():.1f} of {rho_RL.shape[1]}", cell(float(mean_R.mean()), low, high), None, None]


def _each(emotions: Sequence[str], ladders: Sequence[Ladder], followed: Mapping[str, Followed]) -> dict[str, Any]:
    rows = []
    for i, one in enumerate(ladders):
        values = []
        for place, f in followed.items():
            values += [cell(f.rho_L[i])] + ([cell(f.p_L[i])] if place != SCORER else [])
        rows.append(row(_name(emotions, one), values))
    columns: dict[str, str] = {}
    for place in followed:
        columns |= {f"ρ, {place}": "number"} | ({f"p, {place}": "number"} if place != SCORER else {})
    about = "Each ladder: ρ of its score with the number, and the chance that a random contrast follows as well."
    return section("ladder-by-ladder", "Ladder by ladder", about, columns, rows, figure="ladders.png")


def _name(emotions: Sequence[str], one: Ladder) -> str:
    up, down = (", ".join(emotions[e] for e in side) for side in (one.rises, one.falls))
    return f"{one.id}: {up} − {down}"


def _figure(names: Sequence[str], followed: Mapping[str, Followed], seed: int) -> Figure:
    """ρ of each ladder at each place over the middle 95 % of random contrasts; first the mean with its interval."""
    dots = {}
    for place, f in followed.items():
        mean, low, high = clustered_mean(f.rho_L, np.arange(len(f.rho_L)), seed)
        null = None
        if place != SCORER:
            mean_R = f.null_LR.mean(0)
            null = [tuple(np.quantile(own_R, [0.025, 0.975])) for own_R in (mean_R, *f.null_LR)]
        whiskers = [(low, high), *[None] * len(names)]
        dots[place] = Dots(values=[mean, *f.rho_L], whiskers=whiskers, null=null)
    return dots_figure(
        ["mean of all, 95 % interval", *names],
        dots,
        title="Does the reading follow the number?",
        xlabel="Spearman's ρ of the reading with the number\ngrey: middle 95 % of random contrasts; dotted: .8",
        limits=(-1.05, 1.05),
        mark=FOLLOWS,
        rule=1,
    )
