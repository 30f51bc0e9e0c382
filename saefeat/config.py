"""What a run is told: frozen keyword-only dataclasses, read from TOML, written back as the manifest.

A config is checked when it is made, so a run never starts on nonsense. Every field says its unit.
"""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from saefeat.errors import InputError, UnknownName

C = TypeVar("C")


def _require(condition: bool, what: str, do: str | None = None) -> None:
    if not condition:
        raise InputError(what, do=do)


@dataclass(frozen=True, kw_only=True)
class SubjectConfig:
    """The language model studied."""

    model: str = "smollm2-135m-instruct"
    """A HF id, a HF directory, a GGUF file, or a recipe of `saefeat model list`."""
    device: str = "auto"
    """auto (CUDA when present), cpu, cuda, cuda:1, mps."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """auto: bfloat16 where the machine multiplies it fast, else float32."""


@dataclass(frozen=True, kw_only=True)
class HarvestConfig:
    """Text to residual streams on disk."""

    text: tuple[str, ...] = ()
    """Files (.txt, .jsonl, .parquet), directories of them, or `hf:DATASET[:SPLIT]`."""
    layers: tuple[int, ...] = ()
    """0-based blocks whose output is kept."""
    tokens: int = 2_000_000
    """How many tokens to keep at most, first and sink tokens included."""
    context: int = 256
    """Tokens a packed context holds."""
    batch_contexts: int = 16
    """Contexts a forward pass takes."""
    shard_contexts: int = 512
    """Contexts a shard file holds."""
    sink_multiple: float = 5.0
    """A token whose norm exceeds this many times the layer's median norm is a sink."""
    seed: int = 0
    """Order of the documents."""

    def __post_init__(self) -> None:
        _require(self.tokens > 0, f"tokens must be positive, not {self.tokens}")
        _require(self.context >= 8, f"context must be at least 8 tokens, not {self.context}")
        _require(self.batch_contexts > 0, f"batch_contexts must be positive, not {self.batch_contexts}")
        _require(self.shard_contexts > 0, f"shard_contexts must be positive, not {self.shard_contexts}")
        _require(self.sink_multiple > 1, f"sink_multiple must exceed 1, not {self.sink_multiple}")
        _require(len(set(self.layers)) == len(self.layers), f"layers are named twice: {self.layers}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A sparse autoencoder, defined as sae-lens defines it."""

    architecture: Literal["batchtopk", "matryoshka"] = "batchtopk"
    layer: int | None = None
    """Which of the harvested layers; may be left out if there is one."""
    features: int = 4608
    """Width of the dictionary."""
    k: int = 48
    """Active features per token, on average over a batch."""
    tokens: int = 6_000_000
    """Token visits in all; more than the store holds means several epochs."""
    batch: int = 2048
    """Tokens a step."""
    lr: float | None = None
    """Peak Adam rate; None: 4e-4 / sqrt(features / 2**14)."""
    warmup: float = 0.02
    """Share of the steps over which the rate rises."""
    decay: float = 0.2
    """Share of the steps, at the end, over which it falls to zero."""
    aux_coefficient: float = 1.0
    """Weight of the loss that revives dead features."""
    dead_after: int = 200_000
    """Tokens without firing after which a feature counts as dead."""
    threshold_lr: float = 0.01
    """Step of the moving average of the inference threshold."""
    matryoshka_widths: tuple[int, ...] = ()
    """Nested dictionary widths for matryoshka, the last one = features; () : features/16, /4, /1."""
    heldout: float = 0.02
    """Share of the contexts kept for the quality report, never trained on."""
    checkpoint_every: int = 500
    """Steps between checkpoints from which a killed run continues."""
    seed: int = 0
    """Of the first weights."""
    data_seed: int | None = None
    """Of the order of the batches; None: the seed. SAEs trained side by side share it."""

    def __post_init__(self) -> None:
        _require(self.features > 0, f"features must be positive, not {self.features}")
        _require(0 < self.k <= self.features, f"k must lie between 1 and features ({self.features}), not {self.k}")
        _require(self.tokens > 0 and self.batch > 0, "tokens and batch must be positive")
        _require(self.lr is None or self.lr > 0, f"lr must be positive, not {self.lr}")
        _require(0 <= self.warmup + self.decay <= 1, "warmup and decay are shares of the run: together at most 1")
        _require(0 < self.heldout < 0.5, f"heldout must lie between 0 and .5, not {self.heldout}")
        widths = self.matryoshka_widths
        if self.architecture == "matryoshka" and widths:
            ordered = list(widths) == sorted(set(widths)) and widths[-1] == self.features
            _require(ordered, f"matryoshka_widths must rise and end at features ({self.features}), not {widths}")


@dataclass(frozen=True, kw_only=True)
class SaeConfig:
    """An SAE that is there already, in the place of [harvest] and [train]."""

    from_: str = ""
    """`from` in TOML: a directory of SAELens or sparsify, or RELEASE/ID of SAELens' list; '': none, one is trained."""
    model: str = ""
    """The subject model; '': subject.model unless that is the default, else the one that the SAE's files name."""
    layer: int | None = None
    """0-based block whose output it reads; None: its files say."""

    def __post_init__(self) -> None:
        _require(self.layer is None or self.layer >= 0, f"sae.layer must not be negative, it is {self.layer}")
        alone = not self.from_ and (self.layer is not None or bool(self.model))
        _require(not alone, "sae.layer or sae.model is set without sae.from", "name the SAE")


@dataclass(frozen=True, kw_only=True)
class ReadoutConfig:
    """Where and with what pool a text's state is read."""

    name: str = "story"
    pool: Literal["mean", "last", "opening"] = "mean"
    """mean: over the text's tokens; last: the last token after the continuation; opening: mean over what the chat
    template writes between a turn and the next, where its speaker is about to speak."""
    power: float = 0.5
    """A pooled feature is its mean activation raised to this power: 1 keeps the mean, less damps loud features."""
    continuation: str = ""
    """Appended to the text before it is read, such as ' In short, I feel so'."""
    frame: Literal["text", "chat"] = "text"
    """text: as it is; chat: as a user's turn in the model's chat template, followed by the start of its reply."""
    sae: str = ""
    """The SAE it reads through, such as 'L18'; '': the first one given."""
    stories: bool = True
    """Whether its prototypes are fitted on the stories."""
    also: tuple[str, ...] = ()
    """Further corpora, of the same emotions, on which they are fitted too."""
    dialogues: tuple[str, ...] = ()
    """Dialogue corpora on which they are fitted too, in the chat frame: pool mean reads each turn's own speaker, pool
    opening whoever has just spoken."""
    below: int | None = None
    """'auto' takes it for texts of fewer tokens than this; None: for whatever no other readout takes."""

    def __post_init__(self) -> None:
        _require(0 < self.power <= 1, f"power must lie above 0 and be at most 1, not {self.power}")
        _require(self.below is None or self.below > 0, f"below must be positive, not {self.below}")
        fitted = self.stories or bool(self.also) or bool(self.dialogues)
        _require(fitted, f"readout {self.name} has nothing to be fitted on")
        chat = self.frame == "chat"
        opens = chat and not self.continuation
        what = f"readout {self.name}: openings are those of the chat frame, without a continuation"
        _require(opens or self.pool != "opening", what)
        plain = chat and not self.stories and self.pool != "last" and self.below is None
        what = f"readout {self.name}: dialogues are read in the chat frame, as a mean or opening, without stories"
        _require(plain or not self.dialogues, what, "set frame, pool, stories = false, and no below")


STORY = ReadoutConfig(name="story", pool="mean")
FELT = ReadoutConfig(name="felt", pool="last", continuation=" In short, I feel so")
"""The one token after a continuation. It serves a dense stream; SAE features of a single token are too few for it."""
SHORT_TEXTS = "remarks"
"""The corpus of short texts that ships."""
WITH_SHORT_TEXTS = (
    STORY,
    ReadoutConfig(name="felt", also=(SHORT_TEXTS,), below=60),
    ReadoutConfig(name="turn", frame="chat", stories=False, also=(SHORT_TEXTS,)),
)
"""story: narratives; felt: what a short text expresses; turn: a user's turn in a conversation."""
DIALOGUES = "dialogues"
"""The corpus of dialogues that ships."""
SPEAKER = ReadoutConfig(name="speaker", frame="chat", stories=False, also=(SHORT_TEXTS,), dialogues=(DIALOGUES,))
OTHER = replace(SPEAKER, name="other", pool="opening", power=1.0)
OF_DIALOGUES = (SPEAKER, OTHER)
"""speaker: of a turn, who speaks; other: where a turn opens or is to open, the one who has just spoken."""


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """Stories to labels and prototypes."""

    stories: str = "stories"
    """A story corpus: a directory, or the name of one that ships."""
    topics: tuple[str, ...] = ()
    """Topics that prototypes and labels are made from; (): all."""
    readouts: tuple[ReadoutConfig, ...] = ()
    """(): story, felt and turn where the corpus of short texts has the stories' emotions, and speaker and other where
    the dialogues have them too and the model has a chat template; else story alone."""
    ratings: str = ""
    """Valence and arousal of emotion words (.jsonl, .csv, .tsv); '': those that ship."""
    ridge: float | None = None
    """Shrinkage of the whitening, in mean eigenvalues of the within-emotion covariance; None: chosen for each
    readout by leaving each topic out in turn."""
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.ridge is None or self.ridge > 0, f"ridge must be positive, not {self.ridge}")
        _require(len({r.name for r in self.readouts}) == len(self.readouts), "readouts must have distinct names")
        unbounded = [r for r in self.readouts if r.below is None and not r.dialogues]
        what = "one readout must be without a bound (below) and without dialogues"
        _require(not self.readouts or bool(unbounded), what)


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """The whole chain, one TOML file."""

    name: str = "atlas"
    subject: SubjectConfig = field(default_factory=SubjectConfig)
    harvest: HarvestConfig = field(default_factory=HarvestConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sae: SaeConfig = field(default_factory=SaeConfig)
    label: LabelConfig = field(default_factory=LabelConfig)

    def __post_init__(self) -> None:
        trains = self.harvest != HarvestConfig() or self.train != TrainConfig()
        what = "[sae] from = ... stands in the place of [harvest] and [train]"
        _require(not (self.sae.from_ and trains), what, "leave them out")


def load_config(path: Path | str, kind: type[C] = BuildConfig) -> C:  # type: ignore[assignment]
    """Read a TOML file into a config. Raises InputError naming the file, the key and what was expected."""
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError("no such file", where=path) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"is not readable TOML ({error})", where=path) from error
    try:
        return from_dict(kind, table)
    except InputError as error:
        raise InputError(str(error), where=path) from error


def from_dict(kind: type[C], table: dict[str, Any], where: str = "") -> C:
    """Make a config from a plain dictionary (as in TOML or a manifest), checking names and types."""
    fields = {name.removesuffix("_"): (name, hint) for name, hint in typing.get_type_hints(kind).items()}
    for key in table:
        if key not in fields:
            raise UnknownName("setting", f"{where}{key}", [f"{where}{name}" for name in fields])
    return kind(**{fields[key][0]: _convert(fields[key][1], value, f"{where}{key}") for key, value in table.items()})


def to_dict(config: Any) -> dict[str, Any]:
    """The plain dictionary of a config: what manifests hold and `from_dict` reads. A field `from_` is its `from`."""
    return dataclasses.asdict(config, dict_factory=lambda items: {name.removesuffix("_"): v for name, v in items})


def _convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type `hint`, or an InputError that says what was expected at `where`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    if origin is Literal:
        if value not in arguments:
            raise InputError(f"{where} is {value!r}", do=f"use one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where} is {value!r}, a list was expected")
        return tuple(_convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise InputError(f"{where} is {value!r}, a table was expected")
        return from_dict(typing.cast(Any, hint), value, where + ".")
    accepted = (int, float) if hint is float else (hint,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise InputError(f"{where} is {value!r}, a value of type {hint.__name__} was expected")
    return hint(value)
