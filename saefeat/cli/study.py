"""`saefeat study NAME`: studies with controls and a report. A study's module is imported only when it is used."""

from __future__ import annotations

import importlib
from typing import Any

import click

STUDIES: dict[str, tuple[str, str]] = {
    # study: (module under saefeat.cli, one line for --help)
    "dose-response": ("study_dose", "Emotions turned up and down step by step: what is written, in whose eyes."),
    "ladders": ("study_ladders", "Does the reading follow a number that is turned up?"),
    "scenarios": ("study_scenarios", "The writer's state, where the reply starts, and the reply."),
    "impossible-task": (
        "study_impossible",
        "Programming tasks that cannot be done honestly: what it does, by emotion.",
    ),
}


class Studies(click.Group):
    """A click group that knows its studies without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(STUDIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in STUDIES:
            return None
        return importlib.import_module(f"saefeat.cli.{STUDIES[cmd_name][0]}").command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in STUDIES:
            from saefeat.errors import UnknownName

            raise UnknownName("study", args[0], STUDIES, do="see saefeat study --help")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Studies"):
            formatter.write_dl([(study, text) for study, (_, text) in STUDIES.items()])


EPILOG = """\b
Examples:
  saefeat study ladders --out results/ladders
  saefeat --atlas my-atlas study impossible-task --episodes 48 --out results/impossible-task
"""


@click.group(cls=Studies, epilog=EPILOG)
def command() -> None:
    """Studies of the atlas's model, each with its controls, nulls and intervals, and a report."""
