"""The command line: `saefeat VERB`. A verb's module is imported only when the verb is used."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from saefeat import __version__
from saefeat.cli.common import Settings, report_errors

VERBS: dict[str, tuple[str, str]] = {
    # verb: (module under saefeat.cli, one line for --help)
    "demo": ("demo", "The whole chain on the embedded default model, then queries, cards and a report."),
    "build": ("build", "Text and stories to an atlas, all stages, with resume."),
    "model": ("model", "Subject models: list, fetch, show."),
    "corpus": ("corpus", "Story corpora: check, stats."),
    "harvest": ("harvest", "Text to residual streams on disk."),
    "train": ("train", "Residual streams to a sparse autoencoder."),
    "label": ("label", "Stories to feature labels and prototypes."),
    "index": ("index", "Labels and prototypes to an atlas; add: texts to an index of texts."),
    "atlas": ("atlas", "Atlases: list, show, verify, pack, unpack."),
    "nearest": ("nearest", "The emotions nearest to a text."),
    "similar": ("similar", "The stories or indexed texts nearest to a text, a profile, or features."),
    "encode": ("encode", "Pooled SAE features of texts."),
    "features": ("features", "Features by emotion, with evidence."),
    "feature": ("feature", "One feature: labels, words, snippets."),
    "emotions": ("emotions", "The map of emotions, or one of them."),
    "trace": ("trace", "Conversations: emotions by turn, speaker and token."),
    "steer": ("steer", "Steered beside unsteered text: emotions and features turned up, down or out."),
    "study": ("study", "Studies with controls and a report: dose-response, ladders, scenarios, impossible-task."),
    "cards": ("cards", "Feature and emotion cards: export."),
    "evaluate": ("evaluate", "How good an atlas is, beside its nulls."),
    "doctor": ("doctor", "What is installed, found, missing, and how to mend it."),
}


class Verbs(click.Group):
    """A click group that knows its verbs' names and help lines without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        return importlib.import_module(f"saefeat.cli.{VERBS[cmd_name][0]}").command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in VERBS:
            from saefeat.errors import UnknownName

            raise UnknownName("verb", args[0], VERBS, do="see saefeat --help")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, text) for verb, (_, text) in VERBS.items()])


EPILOG = """\b
Examples:
  saefeat model fetch smollm2-135m-instruct
  saefeat nearest "Nobody came to the party, and the candles burned down."
  saefeat features --emotion desperate --top 5
  saefeat cards export --emotion desperate --format html --out cards/
"""


DTYPES = ["auto", "bfloat16", "float32"]
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=Verbs, epilog=EPILOG, context_settings=CONTEXT)
@click.option(
    "--atlas", envvar="SAEFEAT_ATLAS", metavar="NAME|DIR", help="The atlas to use (default: the one that ships)."
)
@click.option(
    "--device", envvar="SAEFEAT_DEVICE", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps."
)
@click.option(
    "--dtype", envvar="SAEFEAT_DTYPE", default="auto", type=click.Choice(DTYPES), help="Of the subject model."
)
@click.option("--threads", envvar="SAEFEAT_THREADS", type=click.IntRange(1), help="CPU threads (default: all cores).")
@click.option("--seed", envvar="SAEFEAT_SEED", type=click.IntRange(0), help="Of whatever draws at random.")
@click.option("--allow-other-weights", is_flag=True, help="Use an atlas with other weights of the same architecture.")
@click.option("-v", "--verbose", count=True, help="More log lines on stderr (-vv: all).")
@click.option("-q", "--quiet", is_flag=True, help="No progress, no log lines.")
@click.version_option(__version__, prog_name="saefeat")
@click.pass_context
def cli(ctx: click.Context, **options: Any) -> None:
    """Find which features of a language model carry which emotions, with evidence, and ask for them.

    A 'functional emotion' here is a pattern in activations that can be read; saefeat makes no claim that a
    model feels anything.
    """
    ctx.obj = Settings(**options)
    ctx.obj.apply()


def main() -> None:
    """Run the command line; a user's error becomes one clear line and exit code 2."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with report_errors():
        code = cli.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
