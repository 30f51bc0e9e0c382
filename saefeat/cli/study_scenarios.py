"""`saefeat study scenarios`: is what one should expect among the emotions that are read highest?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from saefeat.cli.common import Settings, existing_file, json_option, writable_folder
from saefeat.cli.progress import stages
from saefeat.cli.querying import open_atlas
from saefeat.cli.studying import IDS, deliver, embedding_scorer, report_of, stories_option

if TYPE_CHECKING:
    from saefeat.atlas import Atlas

EPILOG = """\b
Examples:
  saefeat study scenarios --out results/scenarios
  saefeat --atlas my-atlas study scenarios --ids odd --no-replies --no-embeddings
A message: {"id": "s1", "text": "...", "expected": ["excited"], "reply_expected": ["cheerful"]}
A dialogue: {"id": "d1", "messages": [{"role", "content"}], "arc": [["sad"], ["compassionate"]]}
"""
TOKENS = 60


@click.command("scenarios", epilog=EPILOG)
@click.option("--messages", "message_file", type=click.Path(path_type=Path), help="A .jsonl (default: shipped).")
@click.option("--dialogues", "dialogue_file", type=click.Path(path_type=Path), help="A .jsonl (default: shipped).")
@click.option("--ids", type=click.Choice(IDS), default="all", show_default=True, help="Even numbers are reported.")
@click.option("--no-replies", is_flag=True, help="Let the model write no replies.")
@click.option("--tokens", type=click.IntRange(1), default=TOKENS, show_default=True, help="Of a reply, at most.")
@stories_option
@click.option("--no-embeddings", is_flag=True, help="Leave the sentence embeddings out.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of results.json, report.md, report.html, figure.")
@json_option
@click.pass_obj
def command(
    settings: Settings,
    message_file: Path | None,
    dialogue_file: Path | None,
    ids: Any,
    no_replies: bool,
    tokens: int,
    stories: str | None,
    no_embeddings: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Messages and dialogues with expected emotions: at the writer's turn, where a reply starts, and in the reply.

    Beside the best constant five emotions (chosen on odd numbers), shuffled expectations and sentence embeddings; and
    a table from the user's state to the one where the reply starts to that of the reply which the model writes.
    Odd numbers are for development, even ones are reported.
    """
    from saefeat.causal import read_dialogues, read_messages, study_scenarios

    atlas, began, seed = open_atlas(settings), time.time(), settings.seed or 0
    messages = read_messages(atlas.emotion_names, None if message_file is None else existing_file(message_file))
    dialogues = read_dialogues(atlas.emotion_names, None if dialogue_file is None else existing_file(dialogue_file))
    if out is not None:
        writable_folder(out)
    with stages(settings) as report:
        report("fitting sentence embeddings")
        scorer = None if no_embeddings else embedding_scorer(atlas, stories)
        generate = None if no_replies else _replies(atlas, tokens, report)
        study = study_scenarios(
            atlas,
            messages,
            dialogues,
            ids=ids,
            generate=generate,
            scorer=scorer,
            seed=seed,
            on_progress=report("reading the scenarios") if no_replies else None,
        )
    ran = f"saefeat --atlas {atlas.name} --seed {seed} study scenarios --ids {ids}"
    given = {"messages": message_file, "dialogues": dialogue_file}
    ran += "".join(f" --{name} {path.name}" for name, path in given.items() if path is not None)
    ran += " --no-replies" if no_replies else f" --tokens {tokens}"
    ran += f" --stories {Path(stories).name}" if stories is not None else ""
    ran += " --no-embeddings" if scorer is None else ""
    results = report_of("Scenarios", atlas, settings, study.results["sections"], began, ran)
    deliver(results, {"scenarios.png": study.figure}, out, as_json=as_json)


def _replies(atlas: Atlas, tokens: int, report: Any) -> Any:
    """Conversations to the likeliest reply of the atlas's model."""
    from saefeat.causal import generate

    def reply(conversations: Sequence[Any]) -> tuple[str, ...]:
        made = generate(
            atlas.subject(), conversations, tokens=tokens, temperature=0, on_progress=report("writing replies")
        )
        report("reading the scenarios")
        return made.texts

    return reply
