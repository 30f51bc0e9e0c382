"""The house stands as designed: rooms import only from rooms above, through their front doors."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "saefeat"
ROOMS = (
    "errors config files subject corpus harvest sae label atlas trace causal cards evaluate pipeline api "
    "service client cli"
).split()
SOURCES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def saefeat_imports(path: Path) -> list[str]:
    """Dotted saefeat modules that a file imports, at the top or inside functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.append(node.module or "")
    return [name for name in found if name.startswith("saefeat.")]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_imports_only_from_rooms_above_and_through_their_front_door(path: Path) -> None:
    here = room_of(path)
    if here in ("__init__", "__main__"):
        return
    for name in saefeat_imports(path):
        _, room, *inside = name.split(".")
        if room == here:
            continue
        assert ROOMS.index(room) < ROOMS.index(here), f"{path}: {here} may not import {room}"
        assert not inside, f"{path}: reaches past the front door of {room}: {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_lens_imports_sae_lens_and_nothing_unpickles(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {alias.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    names |= {(n.module or "").split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    if path.relative_to(PACKAGE) != Path("sae/lens.py"):
        assert not names & {"sae_lens", "transformer_lens", "wandb"}
    assert not names & {"pickle", "dill", "joblib", "shelve", "marshal"}


def test_rooms_name_what_they_offer() -> None:
    for room in PACKAGE.iterdir():
        if room.is_dir() and room.name not in ("cli", "__pycache__"):
            assert "__all__" in (room / "__init__.py").read_text(encoding="utf-8"), room.name


def test_help_loads_nothing_heavy() -> None:
    heavy = "torch transformers numpy h5py faiss pyarrow matplotlib sae_lens rich.progress".split()
    code = (
        "import sys; from saefeat.cli import cli\n"
        "try: cli.main(['--help'], standalone_mode=False)\nexcept SystemExit: pass\n"
        f"print([m for m in {heavy!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "nearest" in done.stdout


def test_every_verb_loads_and_explains_itself() -> None:
    from saefeat.cli import VERBS, cli

    for verb in VERBS:
        context = cli.make_context("saefeat", [verb, "--help"], resilient_parsing=True)
        command = cli.get_command(context, verb)
        assert command is not None
        assert command.help, f"{verb} has no help text"
        assert "saefeat " in (command.epilog or ""), f"the help of {verb} has no example"
