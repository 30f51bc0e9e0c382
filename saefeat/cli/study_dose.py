"""`saefeat study dose-response`: emotions turned step by step, read by independent judges and by atlases."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from saefeat.cli.common import Settings, existing_file, json_option, writable_folder
from saefeat.cli.progress import stages
from saefeat.cli.querying import open_atlas
from saefeat.cli.studying import deliver, report_of
from saefeat.errors import InputError

if TYPE_CHECKING:
    import re

    from saefeat.atlas import Atlas
    from saefeat.causal import Judge
    from saefeat.evaluate import Labelled

EPILOG = """\b
Examples:
  saefeat study dose-response --labelled mine.jsonl --map mine.toml --out results/dose-response
  saefeat study dose-response --labelled mine.jsonl --map mine.toml --dry-run
  saefeat study dose-response --emotions desperate,calm,joyful --features best --strengths -0.2,-0.1,0.1,0.2
  saefeat --device cuda --atlas my-atlas study dose-response --samples 4 --second smollm2-135m-instruct
  saefeat cards export --emotion desperate --causal results/dose-response/causal.json --out cards/

\b
A labelled file holds {"text", "label"} lines and makes a judge; its map says which emotions a class stands for, as
for `saefeat evaluate`. Without one there is no independent judge.
"""
CAUSAL = "causal.json"


class Judging(NamedTuple):
    """The judges, and the mask of words with which they were fitted and are asked."""

    judges: list[Judge]
    mask: re.Pattern[str]


@click.command("dose-response", epilog=EPILOG)
@click.option("--labelled", multiple=True, type=click.Path(path_type=Path), help="A labelled .jsonl file; repeatable.")
@click.option("--map", "maps", multiple=True, type=click.Path(path_type=Path), help="Its map, one for each --labelled.")
@click.option("--second", metavar="NAME|DIR", help="Another model's atlas, which also reads the texts.")
@click.option("--emotions", default="24", show_default=True, metavar="A,B|N",
              help="To turn: names, or how many, spread over families, those that a judge covers first.")  # fmt: skip
@click.option("--features", metavar="L19.1,…|best", help="Also turn features; best: the best one of each emotion.")
@click.option("--strengths", default="-0.5,-0.3,-0.2,-0.1,0.1,0.2,0.3,0.5", show_default=True, metavar="S,…",
              help="In mean residual norms; small models need more than large ones.")  # fmt: skip
@click.option("--prompts", type=click.Path(path_type=Path), help="A .txt or .jsonl of openings (default: shipped).")
@click.option("--samples", type=click.IntRange(1, 256), default=1, show_default=True, help="Texts (seeds) a prompt.")
@click.option("--tokens", type=click.IntRange(1), default=40, show_default=True, help="Of a text.")
@click.option("--temperature", type=click.FloatRange(0, 10), default=0.7, show_default=True)
@click.option("--randoms", type=click.IntRange(1), default=4, show_default=True, help="Random directions.")
@click.option("--matched", type=click.IntRange(0), default=4, show_default=True, help="Features of matched density.")
@click.option("--dry-run", is_flag=True, help="Write the first missing texts and tell how long the rest takes.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("dose-response"), show_default=True,
              help="Folder of the records and the report; a killed run goes on there.")  # fmt: skip
@json_option
@click.pass_obj
def command(
    settings: Settings,
    labelled: tuple[Path, ...],
    maps: tuple[Path, ...],
    second: str | None,
    emotions: str,
    features: str | None,
    strengths: str,
    prompts: Path | None,
    samples: int,
    tokens: int,
    temperature: float,
    randoms: int,
    matched: int,
    dry_run: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Continue neutral openings with an emotion turned up and down step by step: does what is written follow?

    Read by judges that share neither the atlas nor the stories (sentence embeddings fitted to files that you name, all
    words for emotions masked), by the atlas itself, and by the atlas of another model; beside random directions of the
    same norm and features of matched density. From the same texts: which emotions rise as one is turned (the effect
    matrix), topic and fluency. causal.json is what `saefeat cards export --causal` puts on cards.
    """
    if len(labelled) != len(maps):
        what = f"{len(labelled)} --labelled and {len(maps)} --map were given"
        raise InputError(what, do="give one --map for each --labelled")
    for path in (*labelled, *maps, *([prompts] if prompts is not None else [])):
        existing_file(path)
    steps = tuple(_number(part) for part in _parts(strengths, "--strengths"))
    from saefeat.causal import DoseDesign, evidence, read_openings, run_dose, spread_emotions
    from saefeat.evaluate import has_sentence_embeddings, read_labelled

    if labelled and not has_sentence_embeddings():
        raise InputError("a judge needs sentence embeddings", do="pip install 'saefeat[dev]'")
    atlas, began = open_atlas(settings), time.time()
    other = None if second is None else _opened(second, settings)
    files = [read_labelled(path, told, atlas.emotion_names) for path, told in zip(labelled, maps, strict=True)]
    covered = {atlas.emotion_names[e] for one in files for own in one.members for e in own}
    named = (
        spread_emotions(atlas.families, int(emotions), covered)
        if emotions.isdigit()
        else [atlas.emotion_name(part) for part in _parts(emotions, "--emotions")]
    )
    design = DoseDesign(
        prompts=read_openings(prompts),
        emotions=tuple(dict.fromkeys(named)),
        features=_features(atlas, features, named),
        strengths=steps,
        samples=samples,
        tokens=tokens,
        temperature=temperature,
        seed=settings.seed or 0,
        randoms=randoms,
        matched=matched,
    )
    writable_folder(out)
    with stages(settings) as report:
        judging = None  # made before any text, so that files which make no judge are said at once
        if files and not dry_run:
            report("fitting the judges")
            judging = _judges(atlas, files, _embedder(atlas), design.seed)
        records, left = run_dose(atlas, design, out, only_first=dry_run, on_progress=report("writing texts"))
        if dry_run:
            _tell_estimate(records, design.cells(atlas), left, as_json=as_json)
            return
        texts, readers, found = _read(atlas, other, design, records, out, judging, report)
    results = report_of("Dose and response", atlas, settings, found.sections, began, "")
    results["data"] = [_provenance(path, one) for path, one in zip(labelled, files, strict=True)]
    results["command"] = _command(atlas, design, tuple(zip(labelled, maps, strict=True)), second, prompts, settings)
    from saefeat.files import write_json

    write_json(out / CAUSAL, evidence(atlas, design, texts, readers, found))
    deliver(results, found.figures, out, as_json=as_json)


def _read(
    atlas: Atlas, other: Atlas | None, design: Any, records: Any, out: Path, judging: Judging | None, report: Any
) -> tuple[Any, list[Any], Any]:
    """Texts by cell, the readers (the atlas that steered first) and the report."""
    from saefeat.causal import dose_report, read_by_atlas, read_by_judges, read_topics, texts_by_cell
    from saefeat.evaluate import has_sentence_embeddings

    readers = []
    for one, label in ((atlas, "atlas"), (other, f"atlas {other.name}" if other else "")):
        if one is not None:
            progress = report(f"reading by the {label}")
            readers.append(read_by_atlas(one, records, out, tokens=design.tokens, label=label, on_progress=progress))
    judged = topic = None
    if has_sentence_embeddings():
        embed = _embedder(atlas)
        report("topics")
        topic = read_topics(records, embed, design.samples)
        if judging is not None:
            report("judging")
            targets = [*design.emotions, *(own for _, own in design.features)]
            judged = read_by_judges(judging.judges, records, embed, judging.mask, targets)
    report("trends")
    texts = texts_by_cell(records, design.arms(atlas), design.samples)
    found = dose_report(texts, readers, atlas.families, judged=judged, topic=topic, seed=design.seed)
    return texts, [*readers, *([judged.reader] if judged else [])], found


def _embedder(atlas: Atlas) -> Any:
    from saefeat.evaluate import sentence_embeddings

    device = str(atlas.subject().device)
    return lambda texts: sentence_embeddings(texts, device)


def _judges(atlas: Atlas, labelled: list[Labelled], embed: Any, seed: int) -> Judging:
    """A judge of each file, the words for emotions and classes masked."""
    from saefeat.causal import fit_judge, masked, word_mask
    from saefeat.corpus import load_corpus

    classes = [name for one in labelled for name in one.classes]
    mask = word_mask(atlas.emotion_names, classes, load_corpus("stories").word_families)
    judges = []
    for one in labelled:
        members = [[atlas.emotion_names[e] for e in own] for own in one.members]
        X_ND = embed(masked(one.texts, mask))
        judges.append(fit_judge(one.name, X_ND, one.class_N, one.classes, members, seed=seed))
    return Judging(judges, mask)


def _features(atlas: Atlas, text: str | None, emotions: list[str]) -> tuple[tuple[str, str], ...]:
    """(feature, emotion that it should move) of --features."""
    from saefeat.causal import best_feature, told_emotion

    if text is None:
        return ()
    if text.strip() == "best":
        best = {best_feature(atlas, emotion): emotion for emotion in emotions}
        return tuple((feature, emotion) for feature, emotion in best.items() if feature is not None)
    return tuple(dict(told_emotion(atlas, part) for part in _parts(text, "--features")).items())


def _opened(name: str, settings: Settings) -> Atlas:
    from saefeat.atlas import Atlas

    return Atlas.open(
        name, device=settings.device, dtype=settings.dtype, allow_other_weights=settings.allow_other_weights
    )


def _tell_estimate(records: Any, cells: Any, left: float, *, as_json: bool) -> None:
    from saefeat.cli.common import emit

    value = {"cells": len(cells), "written": len(records), "seconds_left": round(left)}
    told = f"{len(records)} of {len(cells)} cells are written; the others take about {left / 60:.0f} minutes here"
    emit(value, lambda: told, as_json=as_json)


def _provenance(path: Path, one: Labelled) -> dict[str, Any]:
    from saefeat.files import sha256_file

    return {"name": path.name, "given": "--labelled", "rows": len(one.texts), "sha256": sha256_file(path),
            "source": "named by the user"}  # fmt: skip


def _command(
    atlas: Atlas,
    design: Any,
    labelled: tuple[tuple[Path, Path], ...],
    second: str | None,
    prompts: Path | None,
    settings: Settings,
) -> str:
    """The command that makes these results again, files by name."""
    ran = f"saefeat --atlas {atlas.name} --seed {design.seed} --dtype {settings.dtype} study dose-response"
    for path, told in labelled:
        ran += f" --labelled {path.name} --map {told.name}"
    ran += f" --second {Path(second).name}" if second is not None else ""
    ran += f" --emotions {','.join(emotion.replace(' ', '-') for emotion in design.emotions)}"
    ran += f" --features {','.join(name for name, _ in design.features)}" if design.features else ""
    ran += f" --strengths {','.join(f'{s:g}' for s in design.steps)} --samples {design.samples}"
    ran += f" --tokens {design.tokens} --temperature {design.temperature:g}"
    ran += f" --randoms {design.randoms} --matched {design.matched}"
    return ran + (f" --prompts {prompts.name}" if prompts is not None else "")


def _parts(text: str, option: str) -> list[str]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise InputError(f"{option} {text!r} names nothing", do="separate them by commas")
    return parts


def _number(text: str) -> float:
    try:
        value = float(text.replace("−", "-"))
    except ValueError:
        value = float("nan")
    if not abs(value) <= 10:
        raise InputError(f"--strengths {text!r} is no strength", do="pass numbers from -10 to 10")
    return value
