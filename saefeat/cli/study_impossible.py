"""`saefeat study impossible-task`: an agent at programming tasks that cannot be done honestly."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from saefeat.cli.common import Settings, json_option, writable_folder
from saefeat.cli.progress import stages
from saefeat.cli.querying import open_atlas
from saefeat.cli.studying import deliver, report_of

EPILOG = """\b
Examples:
  saefeat --atlas my-atlas study impossible-task --episodes 48 --out results/impossible-task
  saefeat --device cuda --atlas my-atlas study impossible-task --strength 0.05,0.1 --emotions desperate,calm,angry
  saefeat study impossible-task --conditions unsteered,desperate=+0.1,random=+0.1 --episodes 4 --attempts 2

\b
Programs that the model writes really run, shut in (Linux alone): a user of their own, limits on processes, memory,
time and files, no network, nothing to be seen or written but a folder of their own. Where that does not hold, the
study does not start.
"""


@click.command("impossible-task", epilog=EPILOG)
@click.option(
    "--tasks", "source", type=click.Path(path_type=Path), help="A folder of tasks (default: those that ship)."
)
@click.option("--attempts", type=click.IntRange(1), default=4, show_default=True, help="Tries an episode has.")
@click.option(
    "--episodes", type=click.IntRange(1), default=40, show_default=True, help="At impossible tasks, each condition."
)
@click.option("--possible", type=click.Choice(["all", "unsteered", "none"]), default="all", show_default=True,
              help="In which conditions the matched possible tasks are tried, as often.")  # fmt: skip
@click.option("--conditions", metavar="A,B,…", help="unsteered, EMOTION=±S, random=±S (default: from the two below).")
@click.option("--strength", default="0.1", show_default=True, metavar="S,…", help="In mean residual norms; both signs.")
@click.option("--emotions", default="desperate,calm", show_default=True, metavar="A,B", help="To turn and to report.")
@click.option("--tokens", type=click.IntRange(1), default=220, show_default=True, help="Of a reply, at most.")
@click.option("--temperature", type=click.FloatRange(0, 10), default=0.7, show_default=True)
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True, help="Episodes that write together.")
@click.option("--no-profiles", is_flag=True, help="Do not read emotions: cheating alone.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("impossible-task"), show_default=True,
              help="Folder of the records and the report; a killed run goes on there.")  # fmt: skip
@json_option
@click.pass_obj
def command(
    settings: Settings,
    source: Path | None,
    attempts: int,
    episodes: int,
    possible: Any,
    conditions: str | None,
    strength: str,
    emotions: str,
    tokens: int,
    temperature: float,
    batch: int,
    no_profiles: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Give the atlas's model programming tasks whose tests cannot all be passed honestly, and matched ones that can.

    It writes Python, which really runs, is told which tests fail, and tries again. Counted is whether it solves the
    task, says that it cannot be done, special-cases the tests, tampers with them, or gives up; emotions are read at
    every attempt. All of it unsteered and with emotions turned up and down, beside a random direction of the same norm.
    """
    from saefeat.causal import (
        Design,
        Sandbox,
        checked,
        default_conditions,
        load_tasks,
        parse_condition,
        run_study,
        study_report,
    )

    sandbox = Sandbox()
    tasks = load_tasks(source)
    strengths = [_number(part) for part in _parts(strength)]
    if conditions is not None:
        wanted = tuple(parse_condition(part) for part in _parts(conditions))
    else:
        wanted = default_conditions(_parts(emotions), strengths)
    atlas, began = open_atlas(settings), time.time()
    design = Design(
        conditions=checked(wanted, atlas),
        emotions=tuple(atlas.emotion_name(emotion) for emotion in _parts(emotions)),
        episodes=episodes,
        attempts=attempts,
        tokens=tokens,
        temperature=temperature,
        seed=settings.seed or 0,
        possible=possible,
        batch=batch,
    )
    writable_folder(out)
    with stages(settings) as report:
        records = run_study(
            atlas, tasks, design, out, sandbox=sandbox, profiles=not no_profiles, on_progress=report("episodes")
        )
        report("report")
        found = study_report(records, design.emotions, design.seed, sandbox.method)
    ran = f"saefeat --atlas {atlas.name} --seed {design.seed} study impossible-task --episodes {episodes}"
    ran += f" --attempts {attempts} --possible {possible} --emotions {','.join(design.emotions)} --tokens {tokens}"
    ran += f" --conditions {conditions}" if conditions is not None else f" --strength {strength}"
    ran += f" --temperature {temperature:g}" + (f" --tasks {source.name}" if source is not None else "")
    results = report_of("Impossible tasks", atlas, settings, found.sections, began, ran)
    deliver(results, found.figures, out, as_json=as_json)


def _parts(text: str) -> list[str]:
    from saefeat.errors import InputError

    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise InputError(f"{text!r} names nothing", do="separate names by commas")
    return parts


def _number(text: str) -> float:
    from saefeat.errors import InputError

    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 10:
        raise InputError(f"--strength {text!r} is no strength", do="pass numbers above 0, at most 10")
    return value
