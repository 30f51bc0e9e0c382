"""`saefeat study ladders`: does the reading follow a number that is turned up?"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from saefeat.cli.common import Settings, existing_file, json_option, writable_folder
from saefeat.cli.progress import stages
from saefeat.cli.querying import open_atlas
from saefeat.cli.studying import IDS, deliver, embedding_scorer, report_of, stories_option

EPILOG = """\b
Examples:
  saefeat study ladders --out results/ladders
  saefeat --atlas my-atlas study ladders --ids odd --no-embeddings --json
A ladder: {"id": "l1", "template": "I have {x} days left.", "values": ["90", "9", "1"], "rises": ["desperate"],
"falls": ["calm"]}
"""


@click.command("ladders", epilog=EPILOG)
@click.option("--ladders", "source", type=click.Path(path_type=Path), help="A .jsonl of ladders (default: shipped).")
@click.option("--ids", type=click.Choice(IDS), default="all", show_default=True, help="Even numbers are reported.")
@stories_option
@click.option("--no-embeddings", is_flag=True, help="Leave the sentence embeddings out.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of results.json, report.md, report.html, figure.")
@json_option
@click.pass_obj
def command(
    settings: Settings,
    source: Path | None,
    ids: Any,
    stories: str | None,
    no_embeddings: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """A message with one number, turned up step by step: do the emotions that should rise and fall with it?

    Read at the writer's turn and where the reply starts, beside 1,000 random contrasts of the same sizes, the labels
    of other ladders, and sentence embeddings. Odd numbers are for development, even ones are reported.
    """
    from saefeat.causal import read_ladders, study_ladders

    atlas, began, seed = open_atlas(settings), time.time(), settings.seed or 0
    ladders = read_ladders(atlas.emotion_names, None if source is None else existing_file(source))
    if out is not None:
        writable_folder(out)
    with stages(settings) as report:
        report("fitting sentence embeddings")
        scorer = None if no_embeddings else embedding_scorer(atlas, stories)
        study = study_ladders(
            atlas, ladders, ids=ids, scorer=scorer, seed=seed, on_progress=report("reading the ladders")
        )
    ran = f"saefeat --atlas {atlas.name} --seed {seed} study ladders --ids {ids}"
    ran += f" --ladders {source.name}" if source is not None else ""
    ran += f" --stories {Path(stories).name}" if stories is not None else ""
    ran += " --no-embeddings" if scorer is None else ""
    results = report_of("Ladders", atlas, settings, study.results["sections"], began, ran)
    deliver(results, {"ladders.png": study.figure}, out, as_json=as_json)
