"""`saefeat doctor`: what is installed, found, missing, and the command that mends it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from dataclasses import asdict, dataclass

import click

from saefeat.cli.common import Settings, emit, json_option, table

EPILOG = """\b
Examples:
  saefeat doctor
  saefeat doctor --json
"""

NEEDED = ("torch", "transformers", "sae-lens", "gguf", "h5py", "faiss-cpu", "numpy", "safetensors", "pyarrow")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing looked at; `mend` is the command that puts it right, empty if it is right."""

    what: str
    found: str
    ok: bool = True
    mend: str = ""


@click.command(epilog=EPILOG)
@json_option
@click.pass_obj
def command(settings: Settings, as_json: bool) -> None:
    """What is installed, found and missing, and the command that mends it. Exits with 1 if something is missing."""
    findings = [*libraries(), machine(), disk(), *models(), *atlases(), *steering(settings)]
    rows = [["ok" if f.ok else "missing", f.what, f.found, f.mend] for f in findings]
    emit([asdict(f) for f in findings], lambda: table(["", "what", "found", "to mend it"], rows), as_json=as_json)
    if not all(f.ok for f in findings):
        raise click.exceptions.Exit(1)


def libraries() -> list[Finding]:
    """The libraries saefeat stands on."""
    found = []
    for name in NEEDED:
        try:
            found.append(Finding(what=name, found=importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            found.append(Finding(what=name, found="-", ok=False, mend=f"pip install {name}"))
    return found


def machine() -> Finding:
    """Processor, accelerator, and the dtype that 'auto' means here."""
    import torch

    from saefeat.subject import choose_device, choose_dtype

    device = choose_device("auto")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    dtype = str(choose_dtype("auto", device)).removeprefix("torch.")
    return Finding(what="device", found=f"{device} ({name}), {os.cpu_count()} cores, {dtype}")


def disk() -> Finding:
    """Where builds and models go, and whether they can."""
    import shutil

    from saefeat.files import home

    place = home()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 1e9
    writable = os.access(place, os.W_OK)
    mend = "" if writable and free > 1 else "set SAEFEAT_HOME to a writable folder with 1 GB free"
    return Finding(what="SAEFEAT_HOME", found=f"{home()}, {free:.0f} GB free", ok=not mend, mend=mend)


def models() -> list[Finding]:
    """Subject models with a recipe; only the default one is missed when it is not there."""
    from saefeat.subject import is_fetched, recipes

    found = []
    for number, recipe in enumerate(recipes()):
        there = is_fetched(recipe.name)
        mend = "" if there else f"saefeat model fetch {recipe.name}"
        found.append(
            Finding(what=recipe.name, found="fetched" if there else "not fetched", ok=there or number > 0, mend=mend)
        )
    return found


def atlases() -> list[Finding]:
    """Atlases that can be named."""
    from saefeat.atlas import list_atlases

    names = [str(entry["name"]) for entry in list_atlases()]
    mend = "" if names else "saefeat demo"
    return [Finding(what="atlases", found=", ".join(names) or "none", ok=bool(names), mend=mend)]


def steering(settings: Settings) -> list[Finding]:
    """Whether steering acts on every generated token of the default model, if that is there (a few are written)."""
    from saefeat.errors import SaefeatError
    from saefeat.subject import is_fetched, load_subject, recipes

    name = recipes()[0].name
    if not is_fetched(name):
        return []
    from saefeat.causal import selftest

    try:
        done = selftest(load_subject(name, device=settings.device, dtype="float32"))  # rounding hides faults
    except SaefeatError as error:
        return [Finding(what="steering", found=f"cannot be tested: {error}", ok=False, mend="see above")]
    if not done.passed:
        mend = "install the versions of constraints.txt"
        return [Finding(what="steering", found="fails: " + "; ".join(done.problems), ok=False, mend=mend)]
    found = f"passes: every generated token is reached, cached and uncached agree ({done.difference:.0e} of the effect)"
    return [Finding(what="steering", found=found)]
