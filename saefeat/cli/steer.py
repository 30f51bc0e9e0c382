"""`saefeat steer`: what a model writes when emotions and features are turned up, down or out."""

from __future__ import annotations

import shutil
import textwrap
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import click

from saefeat.cli.common import Settings, emit, json_option, read_argument, table
from saefeat.cli.progress import stages
from saefeat.cli.querying import open_atlas
from saefeat.errors import InputError

if TYPE_CHECKING:
    from saefeat.atlas import Atlas
    from saefeat.causal import Direction, Intervention

EPILOG = """\b
Examples:
  saefeat steer --prompt "Maria opened the door and" --emotion terrified=+0.2
  saefeat steer --chat --prompt "How was your day?" --emotion desperate=+0.2 --emotion calm=-0.1
  saefeat steer --prompt "The letter said" --feature L19.668=+0.15 --positions generated
  saefeat steer --prompt "The letter said" --ablate joyful --cap L19.996=0.02 --samples 4 --json
"""
NARROWEST, WIDEST = 72, 168


@click.command(epilog=EPILOG)
@click.option("--prompt", metavar="TEXT", help="What is continued; - or nothing: stdin.")
@click.option("--chat", is_flag=True, help="The prompt is a user's message, the model replies under its chat template.")
@click.option("--emotion", "emotions", multiple=True, metavar="E=S", help="Add S mean norms of an emotion's direction.")
@click.option("--feature", "features", multiple=True, metavar="F=S", help="Add S mean norms of a feature's direction.")
@click.option("--ablate", multiple=True, metavar="E|F", help="Take an emotion or a feature out.")
@click.option("--clamp", multiple=True, metavar="E|F=V", help="Set its coefficient to V mean norms.")
@click.option("--cap", multiple=True, metavar="E|F=V", help="Limit its coefficient to V mean norms.")
@click.option(
    "--positions",
    type=click.Choice(["all", "prompt", "generated"]),
    default="all",
    show_default=True,
    help="Tokens that are edited (the first and sinks never are).",
)
@click.option(
    "--layer", "layers", type=int, multiple=True, help="Act after this block; may be repeated (default: the SAE's own)."
)
@click.option("--tokens", type=click.IntRange(1), default=60, show_default=True, help="Length of a continuation.")
@click.option(
    "--samples", type=click.IntRange(1, 256), default=1, show_default=True, help="Continuations of each kind."
)
@click.option(
    "--temperature", type=click.FloatRange(0, 10), default=0.7, show_default=True, help="0: the likeliest token always."
)
@click.option("--seed", type=click.IntRange(0), help="Of the draws and the control (default: the global one, else 0).")
@click.option(
    "--control/--no-control", default=True, show_default=True, help="Also steer along a random direction of that norm."
)
@json_option
@click.pass_obj
def command(
    settings: Settings,
    prompt: str | None,
    chat: bool,
    emotions: tuple[str, ...],
    features: tuple[str, ...],
    ablate: tuple[str, ...],
    clamp: tuple[str, ...],
    cap: tuple[str, ...],
    positions: str,
    layers: tuple[int, ...],
    tokens: int,
    samples: int,
    temperature: float,
    seed: int | None,
    control: bool,
    as_json: bool,
) -> None:
    """Unsteered and steered continuations side by side, with a control.

    Strengths are fractions of the layer's mean residual norm (without first and sink tokens); small models need 0.1
    to 0.3. Under each kind stand its perplexity under the unsteered model, the share of distinct 3-grams, and the
    regime: surgical if perplexity is at most 1.5 times and distinct 3-grams at least .8 times those of the unsteered
    text, else repetitive (3-grams) or broken (perplexity). The control is a random direction of the same norm (for
    ablate, clamp and cap of a feature: one that fires about as often). All kinds draw alike. What changes is text;
    no claim is made that a model feels anything.
    """
    asked = {"emotion": emotions, "feature": features, "ablate": ablate, "clamp": clamp, "cap": cap}
    wanted = [(kind, *_parsed(kind, text)) for kind, texts in asked.items() for text in texts]
    if not wanted:
        raise InputError("nothing to steer by", do="pass --emotion, --feature, --ablate, --clamp or --cap")
    text = read_argument(prompt)
    from saefeat.causal import compare

    atlas = open_atlas(settings)
    interventions = [
        _intervention(atlas, kind, name, value, positions, layer)
        for kind, name, value in wanted
        for layer in layers or (None,)
    ]
    with stages(settings) as report:
        result = compare(
            atlas,
            [{"role": "user", "content": text}] if chat else text,
            interventions,
            tokens=tokens,
            samples=samples,
            temperature=temperature,
            seed=seed if seed is not None else settings.seed or 0,
            control=control,
            on_progress=report("writing"),
        )
    emit(result, lambda: shown(result), as_json=as_json)


def _parsed(kind: str, text: str) -> tuple[str, float]:
    """Name and strength of 'desperate=+0.2'; of --ablate the name alone."""
    if kind == "ablate":
        return text, 0.0
    name, equals, number = text.rpartition("=")
    try:
        if not equals or not name.strip():
            raise ValueError
        return name.strip(), float(number)
    except ValueError:
        raise InputError(f"--{kind} {text!r} is not NAME=STRENGTH", do=f"write it like --{kind} NAME=+0.2") from None


def _intervention(atlas: Atlas, kind: str, name: str, value: float, positions: Any, layer: int | None) -> Intervention:
    from saefeat.causal import ablate, add, cap, clamp

    direction = _direction(atlas, kind, name, layer)
    if kind == "ablate":
        return ablate(direction, positions)
    return {"clamp": clamp, "cap": cap}.get(kind, add)(direction, value, positions)


def _direction(atlas: Atlas, kind: str, name: str, layer: int | None) -> Direction:
    """Of an emotion or a feature; where both may stand, a name with a number at its end is a feature's."""
    from saefeat.causal import emotion_direction, feature_direction

    is_feature = kind == "feature" or (kind != "emotion" and name.strip()[-1:].isdigit())
    return feature_direction(atlas, name, layer=layer) if is_feature else emotion_direction(atlas, name, layer=layer)


# ---------------------------------------------------------------- for a person
def shown(result: dict[str, Any]) -> str:
    """The kinds side by side, then their figures."""
    names = [name for name in ("unsteered", "steered", "control") if result[name] is not None]
    width = min(max(shutil.get_terminal_size((120, 40)).columns, NARROWEST), WIDEST)
    column = (width - 2 * (len(names) - 1)) // len(names)
    heads = {"control": f"control: {', '.join(result['control']['of'])}"} if result["control"] else {}
    lines = [_told(one) for one in result["interventions"]]
    lines += ["", _row([[heads.get(name, name), "─" * column] for name in names], column)]
    for texts in zip(*(result[name]["texts"] for name in names), strict=True):
        lines += [_row([_wrapped(text, column) for text in texts], column), ""]
    rows = [[name, *_figures(result[name])] for name in names]
    lines.append(table(["", "perplexity", "ratio", "distinct 3-grams", "regime"], rows))
    return "\n".join([*lines, "", result["statement"]])


def _told(one: dict[str, Any]) -> str:
    strength = "" if one["strength"] is None else f" {one['strength']:+g} × {one['mean_norm']:.0f} (mean norm)"
    return f"{one['action']} {one['of']}{strength}, after layer {one['layer']}, {one['positions']} tokens"


def _figures(side: dict[str, Any]) -> list[str]:
    def two(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    return [two(side["perplexity"]), two(side.get("ratio")), two(side["distinct"]), side.get("regime", "-")]


def _wrapped(text: str, width: int) -> list[str]:
    """A text in lines of at most `width`; its own line breaks are kept."""
    return [line for part in text.strip().splitlines() or [""] for line in textwrap.wrap(part, width) or [""]]


def _row(cells: list[list[str]], width: int) -> str:
    """Cells of several lines beside each other."""
    lines = zip_longest(*cells, fillvalue="")
    return "\n".join("  ".join(cell[:width].ljust(width) for cell in line).rstrip() for line in lines)
