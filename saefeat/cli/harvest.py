"""`saefeat harvest`: text to residual streams on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from saefeat.cli.common import Settings, emit, json_option
from saefeat.cli.progress import stages

EPILOG = """\b
Examples:
  saefeat harvest --model smollm2-135m-instruct --text novels/ --text chat.jsonl --layers 18 --out runs/l18
  saefeat --dtype bfloat16 harvest --config harvest.toml --tokens 10000000 --out runs/big
  torchrun --nproc-per-node 8 -m saefeat harvest --config harvest.toml --out runs/big

\b
A config; flags go over it:
  text = ["novels/", "chat.jsonl"]
  layers = [18, 20]
  tokens = 2_000_000
  [subject]
  model = "smollm2-135m-instruct"
"""


@click.command(epilog=EPILOG)
@click.option("--config", "path", type=click.Path(path_type=Path), help="A TOML file of settings.")
@click.option("--model", envvar="SAEFEAT_MODEL", help="The subject model (default: smollm2-135m-instruct).")
@click.option("--text", multiple=True, help=".txt, .jsonl, .parquet, a directory, or hf:DATASET[:SPLIT]; repeatable.")
@click.option("--layers", help="0-based blocks to read, such as 18,20.")
@click.option("--tokens", type=click.IntRange(1), help="How many tokens to keep at most.")
@click.option("--context", type=click.IntRange(8), help="Tokens of a packed context.")
@click.option("--batch-contexts", type=click.IntRange(1), help="Contexts a forward pass takes.")
@click.option("--shard-contexts", type=click.IntRange(1), help="Contexts a shard file holds.")
@click.option("--sink-multiple", type=float, help="Norm above which a token is a sink, in medians of its layer.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The directory of the activations.")
@json_option
@click.pass_obj
def command(settings: Settings, path: Path | None, model: str | None, out: Path, as_json: bool, **flags: Any) -> None:
    """Read text with the subject model and keep its residual streams.

    Run the same command again after a kill and it continues; when it is done it does nothing.
    """
    import contextlib

    from saefeat.harvest import ActivationStore, harvest, joined, place
    from saefeat.subject import load_subject

    subject_config, config = settings_of(settings, path, model, flags)
    with joined() as ranks, contextlib.ExitStack() as shown:
        subject = load_subject(subject_config.model, device=place(subject_config.device), dtype=subject_config.dtype)
        report = shown.enter_context(stages(settings)) if ranks.first else lambda stage: None
        harvest(subject, config, out, on_progress=report("harvest"), ranks=ranks)
    if not ranks.first:
        return
    store = ActivationStore(out)
    result = {
        "out": str(out),
        "tokens": store.n_contexts * store.context,
        "usable": {str(layer): store.n_usable(layer) for layer in store.layers},
        "contexts": store.n_contexts,
        "layers": list(store.layers),
        "sink_norm": {str(layer): norm for layer, norm in store.sink_norm.items()},
        "tokens_per_second": store.manifest["tokens_per_second"],
    }
    text = f"{result['tokens']:,} tokens of layers {', '.join(map(str, store.layers))} in {out}"
    emit(result, lambda: f"{text}\nnext: saefeat train --help", as_json=as_json)


def settings_of(settings: Settings, path: Path | None, model: str | None, flags: dict[str, Any]) -> tuple[Any, Any]:
    """(SubjectConfig, HarvestConfig) of flags over the TOML file over the defaults."""
    from saefeat.config import HarvestConfig, SubjectConfig, from_dict
    from saefeat.errors import InputError

    table = read_toml(path) if path else {}
    subject = table.pop("subject", {})
    if not isinstance(subject, dict):
        raise InputError(f"subject is {subject!r}, a table was expected", where=path)
    chosen = {"model": model, "device": settings.device, "dtype": settings.dtype}
    subject |= {key: value for key, value in chosen.items() if value not in (None, "auto")}
    table |= {key: value for key, value in flags.items() if value not in (None, ())}
    if isinstance(table.get("layers"), str):
        table["layers"] = numbers(table["layers"])
    if settings.seed is not None:
        table["seed"] = settings.seed
    return from_dict(SubjectConfig, subject), from_dict(HarvestConfig, table)


def numbers(text: str, name: str = "--layers") -> list[int]:
    """'18,20' as [18, 20], each of them once."""
    from saefeat.errors import InputError

    try:
        return list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError as error:
        raise InputError(f"{name} is {text!r}", do="pass numbers with commas, such as 18,20") from error


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dictionary."""
    import tomllib

    from saefeat.cli.common import existing_file
    from saefeat.errors import InputError

    try:
        return tomllib.loads(existing_file(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"is not TOML ({error})", where=path) from error
