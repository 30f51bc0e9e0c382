"""`saefeat evaluate`: how good an atlas is, every figure beside its nulls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from saefeat.cli.common import Settings, emit, json_option
from saefeat.cli.progress import stages

if TYPE_CHECKING:
    from saefeat.evaluate import Bench, Given

EPILOG = """\b
Examples:
  saefeat evaluate --out report/
  saefeat evaluate --labelled mine.jsonl --map mine.toml --calibrate 50 --out report/
  saefeat --atlas my-atlas evaluate --second runs/other-seed/sae --json

\b
A labelled file holds {"text", "label"} lines; its map says what the classes mean:
  [classes]
  joy = ["happy", "joyful", "delighted"]
  anger = ["angry", "furious", "annoyed"]
  [labels]                  # optional: labels of the file that stand for a class
  annoyance = "anger"
  [neutral]                 # optional: labels of texts without emotion
  labels = ["neutral"]
"""


@click.command(epilog=EPILOG)
@click.option("--labelled", multiple=True, type=click.Path(path_type=Path), help="A labelled .jsonl file; repeatable.")
@click.option("--map", "maps", multiple=True, type=click.Path(path_type=Path), help="Its map, one for each --labelled.")
@click.option("--calibrate", type=click.IntRange(1), help="Also calibrate classes on so many labelled rows.")
@click.option("--background", type=click.Path(path_type=Path), help="Your unlabelled texts as a baseline (own rows).")
@click.option("--second", type=click.Path(path_type=Path), help="An SAE of another seed, for the stability of labels.")
@click.option("--stories", help="The stories the atlas was made with: a directory (default: those that ship).")
@click.option("--train-topics", help="Topics to fit on (default: the first two thirds).")
@click.option("--test-topics", help="Topics to test on (default: the others).")
@click.option("--no-embeddings", is_flag=True, help="Leave the sentence embeddings out.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep pooled texts there; a killed run continues.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of results.json, report.md, report.html, figures.")
@json_option
@click.pass_obj
def command(
    settings: Settings,
    labelled: tuple[Path, ...],
    maps: tuple[Path, ...],
    calibrate: int | None,
    background: Path | None,
    second: Path | None,
    stories: str | None,
    train_topics: str | None,
    test_topics: str | None,
    no_embeddings: bool,
    keep: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """The evaluation battery on an atlas: the SAE, retrieval on unseen topics, labels, detectors, geometry,
    abstention, text that others labelled, messages, seeds; every figure beside its nulls in the same run.

    The SAE must not have been trained on the test topics for the figures to be held out. Takes about a quarter of an
    hour for a small model on two cores.
    """
    from saefeat.atlas import Atlas
    from saefeat.cli.common import existing_file, writable_folder
    from saefeat.corpus import load_corpus
    from saefeat.errors import InputError
    from saefeat.evaluate import Given, as_text, evaluate, open_bench, write_report
    from saefeat.sae import load_sae

    if len(labelled) != len(maps):
        raise InputError(
            f"{len(labelled)} --labelled and {len(maps)} --map were given", do="give one --map for each --labelled"
        )
    given = [Given(existing_file(path), existing_file(told)) for path, told in zip(labelled, maps, strict=True)]
    if background is not None:
        existing_file(background)
    other = load_sae(second) if second is not None else None
    atlas = Atlas.open(
        settings.atlas,
        device=settings.device,
        dtype=settings.dtype,
        allow_other_weights=settings.allow_other_weights,
    )
    for folder in (out, keep):
        if folder is not None:
            writable_folder(folder)
    with stages(settings) as report:
        bench = open_bench(
            atlas,
            stories=None if stories is None else load_corpus(stories),
            train=_names(train_topics),
            test=_names(test_topics),
            seed=settings.seed or 0,
            embeddings=not no_embeddings,
            keep=keep,
            report=report,
        )
        options = {"calibrate": calibrate, "background": background, "second": second}
        results, figures = evaluate(
            bench,
            given,
            calibrate=calibrate,
            background=background,
            second=None if other is None else other.to(atlas.subject().device),
            command=_command(bench, given, stories, options),
        )
    if out is not None:
        write_report(results, figures, out)
    emit(results, lambda: as_text(results), as_json=as_json)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _command(bench: Bench, given: Sequence[Given], stories: str | None, options: Mapping[str, object]) -> str:
    """The command that makes these results again, files by name."""
    parts = [f"saefeat --atlas {bench.atlas.name} --seed {bench.seed} evaluate"]
    parts += [f"--labelled {one.path.name} --map {one.map_path.name}" for one in given]
    named = {"stories": stories if stories is None else Path(stories).name, **options}
    parts += [f"--{name} {getattr(option, 'name', option)}" for name, option in named.items() if option is not None]
    parts += [f"--train-topics {','.join(bench.train)} --test-topics {','.join(bench.test)}"]
    return " ".join([*parts, *([] if bench.embeddings else ["--no-embeddings"])])
