"""`saefeat label`: stories to feature labels and prototypes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from saefeat.cli.common import Settings, emit, json_option, table
from saefeat.cli.progress import stages

EXAMPLES = """\b
Examples:
  saefeat label --sae sae/ --out labels/
  saefeat label --sae sae/ --out labels/ --topics t01,t02,t03,t04
  saefeat label --sae sae/ --out labels/ --ratings norms.csv
  saefeat label --sae l18/ --sae l26/ --config label.toml --out labels/

\b
A config with readouts of its own (default: story, felt, turn; of a chat model also speaker, other):
  [[readouts]]
  name = "story"
  [[readouts]]
  name = "felt"
  also = ["remarks"]      # fitted on short texts, too
  below = 60              # 'auto' takes it for texts of fewer tokens
  sae = "L26"
"""


@click.command(epilog=EXAMPLES)
@click.option("--sae", "saes", required=True, multiple=True, type=click.Path(path_type=Path), help="SAE folder(s).")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The label directory to make.")
@click.option("--stories", help="Story corpus: a directory, or the name of one that ships (default: stories).")
@click.option("--topics", help="Topics to make labels and prototypes from, such as t01,t02 (default: all).")
@click.option("--ridge", type=float, help="Shrinkage of the whitening, in mean eigenvalues (default: chosen).")
@click.option("--ratings", type=click.Path(path_type=Path), help="Valence and arousal: emotion, valence, arousal.")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file of label settings, readouts included.")
@click.option("--model", default="smollm2-135m-instruct", show_default=True, help="The subject model.")
@json_option
@click.pass_obj
def command(
    settings: Settings,
    saes: tuple[Path, ...],
    out: Path,
    stories: str | None,
    topics: str | None,
    ridge: float | None,
    ratings: Path | None,
    config: Path | None,
    model: str,
    as_json: bool,
) -> None:
    """Label an SAE's features with emotions and make the prototypes that texts are scored by.

    Pools are kept in --out: a second run with other topics or another ridge does not read the stories again.
    """
    import dataclasses

    from saefeat.config import LabelConfig, load_config
    from saefeat.corpus import load_corpus
    from saefeat.label import label, read_manifest
    from saefeat.subject import load_subject

    given: dict[str, Any] = {
        "stories": stories,
        "topics": None if topics is None else tuple(t.strip() for t in topics.split(",") if t.strip()),
        "ridge": ridge,
        "ratings": None if ratings is None else str(ratings),
        "seed": settings.seed,
    }
    plan = load_config(config, LabelConfig) if config else LabelConfig()
    plan = dataclasses.replace(plan, **{key: value for key, value in given.items() if value is not None})
    corpus = load_corpus(plan.stories)
    subject = load_subject(model, device=settings.device, dtype=settings.dtype)
    with stages(settings) as report:
        label(
            subject,
            saes,
            corpus,
            plan,
            out,
            report("label"),
            allow_other_weights=settings.allow_other_weights,
        )
    manifest = read_manifest(out)

    def text() -> str:
        rows = [
            [r["name"], r["sae"], f"{r['heldout']['top1']:.1%}", f"{r['heldout']['top5']:.1%}", _two(r["stands_out"])]
            for r in manifest["readouts"]
        ]
        head = ["readout", "SAE", "top-1", "top-5", "stands out above"]
        count = f"{len(manifest['emotions'])} emotions, {len(set(manifest['families'].values()))} families"
        return f"{out}: {count}, leave one topic out:\n{table(head, rows)}"

    emit({"out": str(out), "readouts": manifest["readouts"], "families": manifest["families"]}, text, as_json=as_json)


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
