"""`saefeat trace`: conversations turn by turn, with alerts and a figure."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from saefeat.cli.common import Settings, json_option, table, writable_folder
from saefeat.cli.querying import json_line, open_atlas, shortened
from saefeat.errors import InputError

if TYPE_CHECKING:
    from saefeat.atlas import Atlas
    from saefeat.trace import Trace

logger = logging.getLogger(__name__)
EPILOG = """\b
Examples:
  saefeat trace conversation.json
  saefeat trace conversation.json --emotions desperate,calm --plot conversation.png
  saefeat trace many.jsonl --json --keep-going > traces.jsonl
  saefeat trace - --alert 'desperate>3' --alert 'calm<-1' --alert-role user < conversation.json
A conversation: {"id": "a", "messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
"""
FIRED = 3
"""The exit code if an alert fired."""
BLOCKS = "▁▂▃▄▅▆▇█"
SPARKS, TEXT, TABLE_TOP = 60, 34, 3


@click.command(epilog=EPILOG)
@click.argument("file", metavar="FILE|-")
@click.option("--emotions", help="Which, between commas (default: those that score highest).")
@click.option("--top", type=int, default=5, show_default=True, help="How many emotions, without --emotions.")
@click.option("--tokens", is_flag=True, help="Scores of every token too.")
@click.option("--smooth", type=int, default=1, show_default=True, help="Of a token: running mean of about N tokens.")
@click.option("--alert", "alerts", multiple=True, metavar="'E>N'", help="Exit with 3 where it holds; repeatable.")
@click.option("--alert-role", type=click.Choice(["user", "assistant", "any"]), default="any", help="Whose turns.")
@click.option("--readout", help="The readout of turns (default: speaker, else turn).")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the conversation (.png; of more, F-2.png, …).")
@click.option("--keep-going", is_flag=True, help='A conversation that cannot be read gives {"id", "error"}.')
@json_option
@click.pass_obj
def command(
    settings: Settings,
    file: str,
    emotions: str | None,
    top: int,
    tokens: bool,
    smooth: int,
    alerts: tuple[str, ...],
    alert_role: Any,
    readout: str | None,
    plot: Path | None,
    keep_going: bool,
    as_json: bool,
) -> int:
    """The emotions of conversations: each turn's, and those where the assistant is about to speak.

    FILE holds one conversation as JSON, or one a line. It is read under the model's own chat template; a turn's scores
    are standardised (texts of other emotions have mean 0 and standard deviation 1). Exit code 3: an alert fired; which,
    and where, is said on stderr. Where the assistant is about to speak, an atlas with a readout of openings ('other')
    is read for the emotion of the one who has just spoken. Without one, scores there come from one token and lie lower
    than those of turns; '<' alerts are then not asked there.
    A score describes a pattern in the model's activations; no claim is made that a model feels anything.
    """
    from saefeat.trace import LINES, fired, parse_alert, read_conversations, trace, turn_readout

    if top < 1:
        raise InputError(f"--top is {top}", do="pass a number of at least 1")
    if smooth < 1:
        raise InputError(f"--smooth is {smooth}", do="pass a number of at least 1")
    atlas = open_atlas(settings)
    chosen = _emotions(atlas, emotions)
    watched = [parse_alert(text, atlas.emotion_names) for text in alerts]
    if plot is not None:
        _check_plot(plot, chosen or [], top, LINES)
    turn_readout(atlas, readout)
    rang = False
    for number, item in enumerate(read_conversations(file, keep_going=keep_going), 1):
        try:
            if item.messages is None:
                raise InputError(item.error or "is no conversation")
            found = trace(atlas, item.messages, tokens=tokens, smooth=smooth, readout=readout)
        except InputError as error:
            if not keep_going:
                where = f"{item.id}: {error.where}" if error.where else f"conversation {item.id}"
                raise InputError(error.what, where=where, do=error.do) from error
            click.echo(json_line({"id": item.id, "error": str(error)}) if as_json else f"{item.id}: error: {error}")
            continue
        shown = chosen or found.strongest(top)
        hits = fired(found, watched, alert_role)
        if as_json:
            told = (found.of(chosen) if chosen else found.with_tokens_of(shown)).to_dict(None if chosen else top)
            click.echo(json_line({"id": item.id, **told, "alerts": [hit.to_dict() for hit in hits]}))
        else:
            click.echo(("\n" if number > 1 else "") + "\n".join(_table(item.id, found, shown, tokens)))
        if plot is not None:
            _draw(found, shown, plot, number, f"Conversation {item.id}")
        for hit in hits:
            rang = True
            click.echo(f"saefeat: alert in {item.id}: {hit}", err=True)
    return FIRED if rang else 0


def _emotions(atlas: Atlas, names: str | None) -> list[str] | None:
    if names is None:
        return None
    found = [atlas.emotion_name(name) for name in names.split(",") if name.strip()]
    if not found:
        raise InputError("--emotions names none", do="write them like desperate,calm")
    return list(dict.fromkeys(found))


# ---------------------------------------------------------------- for people
def _table(name: str, found: Trace, shown: Sequence[str], tokens: bool) -> Iterator[str]:
    """A conversation as a table of turns, then a sparkline for each emotion and speaker."""
    more = f", {found.windows} windows" if found.windows > 1 else ""
    apart = f", where replies start {found.reply_readout}" if found.reply_readout != found.readout else ""
    yield f"{name}: {len(found.turns)} turns, {found.n_tokens} tokens{more}, readout {found.readout}{apart}"
    starts = any(turn.reply_start is not None for turn in found.turns)
    rows = []
    for turn in found.turns:
        best = found.ranked(turn.profile, TABLE_TOP)
        doubt = " ?" if turn.stands_out is False else ""
        row = [str(turn.index + 1), turn.role, shortened(turn.text, TEXT), _names(best) + doubt]
        rows.append([*row, _names(found.ranked(turn.reply_start, 2))] if starts else row)
    yield table(["turn", "role", "text", "strongest", *(["about to reply"] if starts else [])], rows)
    if any(turn.stands_out is False for turn in found.turns):
        yield "?: nothing stands out more than in texts without emotion"
    yield ""
    yield from _sparklines(found, shown, starts)
    if tokens:
        yield from _token_lines(found, shown[0])


def _names(ranked: Sequence[dict[str, Any]] | None) -> str:
    return ", ".join(f"{row['emotion']} {row['score']:.1f}" for row in ranked or ()) or "–"


def _sparklines(found: Trace, shown: Sequence[str], starts: bool) -> Iterator[str]:
    roles = list(dict.fromkeys(turn.role for turn in found.turns))
    columns: dict[str, list[list[float | None]]] = {role: [] for role in roles}
    for emotion in shown:
        by_turn = found.scores(emotion)
        for role in roles:
            columns[role].append([by_turn[turn.index] for turn in found.turns if turn.role == role])
    known = [value for lists in columns.values() for values in lists for value in values if value is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    cells = {role: [_spark(values, low, high) for values in lists] for role, lists in columns.items()}
    if starts:
        replies = [found.scores(emotion, reply_starts=True) for emotion in shown]
        asked = [value for values in replies for value in values if value is not None]
        least, most = min(asked), max(asked)
        cells["about to reply"] = [_spark([v for v in own if v is not None], least, most) for own in replies]
    rows = [[emotion, *(cells[name][i] for name in cells)] for i, emotion in enumerate(shown)]
    yield table(["emotion", *cells], rows)
    own = f"; about to reply {least:.1f} to {most:.1f}" if starts else ""
    yield f"lowest to highest bar: {low:.1f} to {high:.1f}{own}; the number is the highest of the line"


def _spark(values: Sequence[float | None], low: float, high: float) -> str:
    """Values as blocks between `low` and `high`, '·' where there is none, and the highest; long lines hold the
    highest of neighbours."""
    step = -(-len(values) // SPARKS) if values else 1
    groups = [[v for v in values[i : i + step] if v is not None] for i in range(0, len(values), step)]
    span = high - low or 1.0
    blocks = [BLOCKS[min(7, int(8 * (max(group) - low) / span))] if group else "·" for group in groups]
    known = [v for group in groups for v in group]
    return "".join(blocks) + (f" {max(known):.1f}" if known else "")


def _token_lines(found: Trace, emotion: str) -> Iterator[str]:
    """Every token with its score for one emotion."""
    column = found.emotions.index(emotion)
    for turn in found.turns:
        assert turn.tokens is not None
        yield f"\nturn {turn.index + 1} ({turn.role}), {emotion} by token:"
        pairs = zip(turn.tokens.strings, turn.tokens.scores_TE[:, column], strict=True)
        yield " ".join(f"{string.strip() or repr(string)}[{score:.1f}]" for string, score in pairs)


# ---------------------------------------------------------------- pictures
def _check_plot(plot: Path, chosen: Sequence[str], top: int, most: int) -> None:
    if plot.suffix.lower() != ".png":
        raise InputError("is no .png", where=plot, do="pass a file name that ends in .png")
    if max(len(chosen), 0 if chosen else top) > most:
        raise InputError(f"a figure can tell at most {most} emotions apart", do="name fewer with --emotions")
    writable_folder(plot.parent)


def _draw(found: Trace, shown: Sequence[str], plot: Path, number: int, title: str) -> None:
    from saefeat.files import atomic_path
    from saefeat.trace import conversation_figure

    target = plot if number == 1 else plot.with_name(f"{plot.stem}-{number}{plot.suffix}")
    with atomic_path(target) as temporary:
        conversation_figure(found, shown, title=title).savefig(temporary, format="png")
    logger.info("drew %s", target)
