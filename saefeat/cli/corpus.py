"""`saefeat corpus`: is a story corpus sound, and what does it hold."""

from __future__ import annotations

import click

from saefeat.cli.common import emit, json_option, table

EPILOG = """\b
Examples:
  saefeat corpus check stories
  saefeat corpus check dialogues
  saefeat corpus stats my-stories/ --json
"""


@click.group(epilog=EPILOG)
def command() -> None:
    """Story corpora: emotion by topic, the emotion never named.

    PATH is a directory with emotions.txt, stories in *.jsonl ({"emotion", "topic", "text"}), and optionally
    neutral.jsonl and word_families.json; or 'stories', the corpus that ships.
    """


@command.command(epilog=EPILOG)
@click.argument("path")
@json_option
def check(path: str, as_json: bool) -> None:
    """Look for holes in the crossing, leaks, odd lengths, duplicates.

    A directory of dialogues ({"user", "assistant", "topic", "messages"} a line, no emotions.txt) is checked too, with
    the word families of the stories that ship. Exits with 2 if there is an error; warnings alone pass.
    """
    from dataclasses import asdict

    from saefeat.corpus import (
        DialogueCorpus,
        StoryCorpus,
        check_corpus,
        check_dialogues,
        is_dialogue_corpus,
        load_corpus,
        load_dialogues,
    )

    corpus: StoryCorpus | DialogueCorpus
    if is_dialogue_corpus(path):
        corpus = load_dialogues(path)
        problems = check_dialogues(corpus, load_corpus("stories").word_families)
        held = f"{len(corpus.dialogues)} dialogues"
    else:
        corpus = load_corpus(path)
        problems, held = check_corpus(corpus), f"{len(corpus.stories)} stories"
    errors = sum(problem.severity == "error" for problem in problems)
    result = {
        "corpus": path,
        "fingerprint": corpus.fingerprint,
        "errors": errors,
        "warnings": len(problems) - errors,
        "problems": [asdict(problem) for problem in problems],
    }
    head = f"{held}: {errors} errors, {len(problems) - errors} warnings"
    lines = [f"{p.severity}: {p.kind}: {p.where}: {p.what}" for p in problems]
    emit(result, lambda: "\n".join([head, *lines]), as_json=as_json)
    if errors:
        raise click.exceptions.Exit(2)


@command.command(epilog=EPILOG)
@click.argument("path")
@json_option
def stats(path: str, as_json: bool) -> None:
    """Counts, and lengths in words."""
    from saefeat.corpus import corpus_stats, load_corpus

    result = corpus_stats(load_corpus(path))
    rows = []
    for name, value in result.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {number:g}" for key, number in value.items())
        rows.append((name.replace("_", " "), value))
    emit(result, lambda: table(("what", "value"), rows), as_json=as_json)
