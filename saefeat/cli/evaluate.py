"""`saefeat evaluate`: how good an SAE or an atlas is, beside its nulls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from saefeat.cli.common import Settings, emit, json_option, progress, table

EXAMPLES = """\b
Examples:
  saefeat evaluate stories
  saefeat evaluate stories --sae sae/ --train-topics t01,t02,t03,t04 --test-topics t09,t10 --json
"""
TITLES = {
    "sae": "SAE features",
    "dense": "dense stream, same layer",
    "minilm": "MiniLM sentence embeddings",
    "random_encoder": "random encoder, equal L0",
    "random_directions": "random directions, ReLU",
    "shuffled": "SAE features, shuffled labels",
}


@click.group(epilog=EXAMPLES)
def command() -> None:
    """The evaluation battery: every figure beside its nulls and baselines."""


@command.command(epilog=EXAMPLES)
@click.option("--sae", type=click.Path(path_type=Path), help="SAE folder (default: the atlas's primary SAE).")
@click.option("--stories", default="stories", show_default=True, help="Story corpus: a directory or a shipped name.")
@click.option("--train-topics", help="Topics to fit on (default: the first two thirds).")
@click.option("--test-topics", help="Topics to test on (default: the others).")
@click.option("--readout", type=click.Choice(["story", "felt"]), default="story", show_default=True)
@click.option("--model", help="The subject model (default: the atlas's, with --sae smollm2-135m-instruct).")
@click.option("--no-embeddings", is_flag=True, help="Leave the sentence embeddings out.")
@click.option("--out", type=click.Path(path_type=Path), help="Also write stories.json and stories.txt there.")
@json_option
@click.pass_obj
def stories(
    settings: Settings,
    sae: Path | None,
    stories: str,
    train_topics: str | None,
    test_topics: str | None,
    readout: str,
    model: str | None,
    no_embeddings: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Retrieve the emotion of stories on topics never trained on, one text at a time.

    The SAE must not have been trained on the test topics for the figures to be held out.
    """
    from saefeat.config import FELT, STORY
    from saefeat.corpus import load_corpus
    from saefeat.evaluate import evaluate_stories
    from saefeat.sae import load_sae
    from saefeat.subject import load_subject

    corpus = load_corpus(stories)
    train, test = _split(corpus.topics, _names(train_topics), _names(test_topics))
    corpus.on_topics([*train, *test])  # unknown names end here, before a model is loaded
    if sae is None:
        from saefeat.atlas import Atlas

        atlas = Atlas.open(settings.atlas)
        loaded = atlas.sae()
        model = model or atlas.subject_name
    else:
        loaded = load_sae(sae)
    subject = load_subject(model or "smollm2-135m-instruct", device=settings.device, dtype=settings.dtype)
    with progress(settings) as display:
        task = display.add_task("tokens", total=None)
        result = evaluate_stories(
            subject,
            loaded.to(subject.device),
            corpus,
            train,
            test,
            readout={"story": STORY, "felt": FELT}[readout],
            embeddings=not no_embeddings,
            seed=settings.seed or 0,
            on_progress=lambda done, total: display.update(task, completed=done, total=total),
        )
    if out is not None:
        from saefeat.files import atomic_path, write_json

        write_json(out / "stories.json", {"format": "evaluation", "format_version": 1, **result})
        with atomic_path(out / "stories.txt") as temporary:
            temporary.write_text(_text(result) + "\n", encoding="utf-8")
    emit(result, lambda: _text(result), as_json=as_json)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _split(topics: tuple[str, ...], train: list[str] | None, test: list[str] | None) -> tuple[list[str], list[str]]:
    """Topics to train and to test on; what is not given is the rest, and by default the last third is tested."""
    if test is None:
        cut = -(-len(topics) * 2 // 3)
        test = [t for t in topics if t not in train] if train else list(topics[cut:])
    return train if train is not None else [t for t in topics if t not in test], test


def _text(result: dict[str, Any]) -> str:
    rows = []
    for name, title in TITLES.items():
        row = result["rows"][name]
        if isinstance(row, str):
            rows.append([title, "", row, "", ""])
            continue
        cells = [
            f"{row[k]:.1%} ({row[k + '_interval'][0]:.1%}-{row[k + '_interval'][1]:.1%})" for k in ("top1", "top5")
        ]
        rows.append([title, row["width"], *cells, row["ridge"]])
    head = ["representation", "width", "top-1 (95 %)", "top-5 (95 %)", "ridge"]
    topics = f"{','.join(result['train_topics'])} -> {','.join(result['test_topics'])}"
    first = f"{result['sae']}, readout {result['readout']['name']}, topics {topics}, chance {result['chance_top1']:.1%}"
    return f"{first}\n{table(head, rows)}"
