"""What came of `study dose-response`: tables and figures, the independent judge first, what it does not cover apart.

'Rises' is said by rule: p below .01 by permutation of the strengths within prompt and sample, on surgical strengths
alone, while random directions of the same norm show no such trend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from saefeat.causal.dose import Arm
from saefeat.causal.dose_figures import curves_figure
from saefeat.causal.dose_read import Judged, Reader, Topic
from saefeat.causal.dose_response import LEVEL, RISES, Effect, Response, Texts, respond
from saefeat.causal.dose_specificity import (
    MATRIX,
    control_rows,
    effect_rows,
    median,
    named,
    signed,
    specificity,
    strongest_effects,
)
from saefeat.causal.tables import cell, row, section

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class DoseReport:
    """sections and figures as `saefeat.evaluate` writes them; responses by reader, then arm; effects by arm, each at
    its strongest surgical strength."""

    sections: list[dict[str, Any]]
    figures: dict[str, Figure]
    responses: dict[str, list[Response]]
    effects: list[Effect]


def dose_report(
    texts: Texts,
    readers: Sequence[Reader],
    families: Mapping[str, str],
    *,
    judged: Judged | None = None,
    topic: Topic | None = None,
    seed: int = 0,
) -> DoseReport:
    """readers: the atlas that steered first, then others; families: of the emotions of that atlas."""
    everyone = [*([judged.reader] if judged is not None else []), *readers]
    turned = texts.of("emotion", "feature")
    responses = {
        reader.name: [respond(texts, reader, arm, seed) for arm in turned if arm.own and reader.covers(arm.own)]
        for reader in everyone
    }
    effects = strongest_effects(texts, readers[0], topic or Topic())
    sections, figures = [_summary(everyone, responses, turned)], {}
    for reader in everyone:
        if not responses[reader.name]:
            continue
        name = f"dose-{_slug(reader.name)}.png"
        sections.append(_reader_section(reader, responses[reader.name], judged) | {"figure": name})
        figures[name] = curves_figure(
            responses[reader.name], title=f"{_whose(reader)}: the reading of what is turned, by strength",
            unit=reader.unit,
        )  # fmt: skip
    if judged is not None:
        apart = [arm for arm in turned if arm.own and not judged.reader.covers(arm.own)]
        if apart:
            sections.append(_apart(apart, responses[readers[0].name]))
    matrix, figure = specificity(texts, readers[0], effects, families, judged, seed)
    sections += [*matrix, effect_rows(effects, readers[0], families, topic), control_rows(effects, readers[0], topic)]
    figures[MATRIX] = figure
    sections.append(_regimes(texts))
    if judged is not None:
        sections.append(_judges(judged))
    return DoseReport(sections=sections, figures=figures, responses=responses, effects=effects)


# ---------------------------------------------------------------- dose and response
def _summary(
    readers: Sequence[Reader], responses: Mapping[str, Sequence[Response]], turned: Sequence[Arm]
) -> dict[str, Any]:
    rows = []
    for reader in readers:
        own = responses[reader.name]
        above = sum(r.slope.value > 0 for r in own)
        rising = sum(r.p < LEVEL for r in own)
        clear = sum(r.verdict == RISES for r in own)
        slopes, randoms = ([getattr(r, part).value for r in own] for part in ("slope", "random_slope"))
        rows.append(
            row(
                _whose(reader),
                [f"{len(own)} of {len(turned)}", above, rising, clear, cell(median(slopes)), cell(median(randoms))],
                own=reader.independent,
            )
        )
    about = (
        f"Of what was turned, how many readings rise with the strength within the surgical regime (p < {LEVEL:g} by "
        "permutation of the strengths within prompt and sample; by chance one in a hundred would), and of how many "
        "random directions of the same norm show no trend upward at that level. Slopes are of the reading, in its "
        "unit, by one mean norm."
    )
    columns = {
        "covered": "number", "slope above 0": "number", f"rises, p < {LEVEL:g}": "number",
        "of these random flat": "number", "median slope": "number", "median of random": "number",
    }  # fmt: skip
    notes = [
        "The regime is fixed beforehand: surgical if perplexity under the unsteered model is at most 1.5 times, and "
        "distinct 3-grams at least .8 times, those of the unsteered texts. Strengths count from 0 up to the first that "
        "is not surgical.",
        "The atlas that chose the directions is no independent witness of what they do.",
    ]
    return section("dose-response", "Dose and response", about, columns, rows, notes=notes)


def _reader_section(reader: Reader, responses: Sequence[Response], judged: Judged | None) -> dict[str, Any]:
    with_classes = judged is not None and reader is judged.reader
    rows = []
    for r in responses:
        within = r.strengths[r.within_S]
        values: list[Any] = [_classes(judged, r.arm.own)] if with_classes and judged is not None else []
        values += [
            f"{signed(within.min())} to {signed(within.max())}", cell(*r.slope), cell(r.p), cell(*r.random_slope),
            cell(r.random_p), cell(*r.ahead), r.verdict,
        ]  # fmt: skip
        rows.append(row(named(r.arm), values, own=r.verdict == RISES))
    columns = {"classes": "number"} if with_classes else {}
    columns |= dict.fromkeys(["surgical", "slope", "p", "random slope", "p (two-sided)", "ahead of random", ""],
                             "number")  # fmt: skip
    about = (
        f"Unit: {reader.unit}. Slope of the reading within the surgical strengths, beside that of all random "
        "directions at the same strengths; ahead: the one less the other, prompt by prompt. Intervals of 95 % by "
        "bootstrap over prompts."
    )
    independent = "independent" if reader.independent else "not independent"
    return section(f"by-{_slug(reader.name)}", f"By {_whose(reader)} ({independent})", about, columns, rows)


def _apart(arms: Sequence[Arm], responses: Sequence[Response]) -> dict[str, Any]:
    by_arm = {r.arm: r for r in responses}
    rows = [
        row(named(arm), [cell(*by_arm[arm].slope), cell(by_arm[arm].p), by_arm[arm].verdict])
        for arm in arms
        if arm in by_arm
    ]
    about = "No class of the judges stands for these; read by the atlas alone, which is no independent witness."
    columns = {"slope": "number", "p": "number", "": "number"}
    return section("not-covered", "What the judges do not cover", about, columns, rows)


def _judges(judged: Judged) -> dict[str, Any]:
    rows = []
    for judge in judged.judges:
        each = ", ".join(f"{name} {value:.2f}" for name, value in zip(judge.classes, judge.auroc_C, strict=True))
        C = len(judge.classes)
        rows.append(row(judge.name, [judge.rows, C, cell(judge.accuracy), 1 / C, each]))
    about = (
        "Linear classifiers on sentence embeddings, one a labelled file, cross-validated in five parts: share of "
        "held-out texts named right (mean over classes), and AUROC of each class against the others. They share "
        "neither the atlas nor the stories. Words for emotions, all of them with their inflections, are masked in what "
        "they are fitted to and in what they judge. Several judges of an emotion are averaged."
    )
    columns = {"texts": "number", "classes": "number", "accuracy": "percent", "chance": "percent", "AUROC": "number"}
    return section("judges", "The independent judges", about, columns, rows)


# ---------------------------------------------------------------- parts
def _regimes(texts: Texts) -> dict[str, Any]:
    steps = [float(s) for s in texts.strengths if s != 0]
    rows = []
    for arm in texts.arms:
        told = [f"{texts.regime(arm, s)} {texts.ratio(arm, s):.2f}" for s in steps]
        rows.append(row(named(arm), told, null=arm.own is None))
    about = "By strength: the regime, and perplexity over that of the unsteered texts."
    columns = dict.fromkeys([signed(s) for s in steps], "number")
    return section("regimes", "Regimes", about, columns, rows)


def _classes(judged: Judged | None, emotion: str | None) -> str:
    if judged is None or emotion is None:
        return ""
    return ", ".join(dict.fromkeys(judge.classes[c] for judge in judged.judges for c in judge.own(emotion)))


def _whose(reader: Reader) -> str:
    return "the independent judges" if reader.independent else reader.name


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name).split()).lower()
