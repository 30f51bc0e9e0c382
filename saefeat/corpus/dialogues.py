"""The dialogue corpus: two people, two emotions, so that the present speaker's and the other's can be told apart.

A corpus is a directory without `emotions.txt` (the emotions are those of the stories beside which it is used):
- `*.jsonl`: dialogues, `{"user", "assistant", "topic", "messages"}`: the emotion of each speaker, and what they say;
- `neutral.jsonl` (optional): flat ones, `{"topic", "messages"}`.

In each topic every emotion should be once the user's and once the assistant's, paired by chance.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from saefeat.corpus.check import Problem
from saefeat.corpus.stories import EMOTIONS_FILE, NEUTRAL_FILE
from saefeat.corpus.texts import text_or_messages
from saefeat.errors import FormatError, InputError
from saefeat.files import fingerprint, shipped

USER, ASSISTANT = SPEAKERS = ("user", "assistant")


@dataclass(frozen=True)
class Dialogue:
    """A conversation of two people on a topic. user, assistant: the emotion of each, None of flat ones."""

    topic: str
    messages: tuple[dict[str, str], ...]
    user: str | None = None
    assistant: str | None = None


@dataclass(frozen=True)
class Spoken:
    """One turn of a dialogue. speaker, other: the emotion of who speaks and of who listens, None of flat ones.
    answered: whether somebody speaks, or is to speak, after it: any turn but an assistant's last."""

    text: str
    topic: str
    speaker: str | None
    other: str | None
    answered: bool


@dataclass(frozen=True)
class DialogueCorpus:
    """All dialogues, and flat ones. emotions: in the order asked for. topics: sorted. fingerprint: 16 hex digits."""

    dialogues: tuple[Dialogue, ...]
    neutral: tuple[Dialogue, ...]
    emotions: tuple[str, ...]
    topics: tuple[str, ...]
    fingerprint: str

    @cached_property
    def turns(self) -> tuple[Spoken, ...]:
        """Every turn, dialogue by dialogue, the flat ones last: the rows of what is pooled of this corpus."""
        return tuple(turn for one in (*self.dialogues, *self.neutral) for turn in _turns(one))


def _turns(one: Dialogue) -> Iterator[Spoken]:
    for number, message in enumerate(one.messages, 1):
        of_user = message["role"] == USER
        speaker, other = (one.user, one.assistant) if of_user else (one.assistant, one.user)
        yield Spoken(message["content"], one.topic, speaker, other, of_user or number < len(one.messages))


def load_dialogues(name_or_dir: str | Path, emotions: Sequence[str] | None = None) -> DialogueCorpus:
    """Read a dialogue corpus: a directory, or the name of one that ships ('dialogues'). emotions: their order; None:
    those that occur, sorted.

    Raises InputError if there is none or its emotions are others, FormatError with file and line where it is
    malformed. Whether it is a good corpus is for `check_dialogues` to say.
    """
    directory = _locate(name_or_dir)
    files = [path for path in sorted(directory.glob("*.jsonl")) if path.name != NEUTRAL_FILE]
    dialogues = tuple(one for path in files for one in _read(path, SPEAKERS))
    if not dialogues:
        raise FormatError("holds no dialogues (no .jsonl with user, assistant, topic and messages)", where=directory)
    flat = tuple(_read(directory / NEUTRAL_FILE, ())) if (directory / NEUTRAL_FILE).exists() else ()
    own = sorted({str(emotion) for one in dialogues for emotion in (one.user, one.assistant)})
    if emotions is not None and own != sorted(emotions):
        raise InputError("has other emotions than the stories", where=name_or_dir, do="use dialogues of the same ones")
    ordered = tuple(own if emotions is None else emotions)
    topics = tuple(sorted({one.topic for one in dialogues}))
    known = fingerprint([[astuple(one) for one in part] for part in (dialogues, flat)] + [ordered])
    return DialogueCorpus(dialogues, flat, ordered, topics, known)


def is_dialogue_corpus(name_or_dir: str | Path) -> bool:
    """Whether a directory, or what ships under a name, is meant as a dialogue corpus, by its first line."""
    try:
        files = sorted(_locate(name_or_dir).glob("*.jsonl"))
    except InputError:
        return False
    for path in files[:1]:
        with path.open("rb") as file:
            return b'"messages"' in file.readline()
    return False


def _locate(name_or_dir: str | Path) -> Path:
    for directory in (Path(name_or_dir), shipped("corpora") / str(name_or_dir)):
        if directory.is_dir() and not (directory / EMOTIONS_FILE).exists():
            return directory
    raise InputError("no such dialogue corpus", where=name_or_dir, do="pass a directory, or 'dialogues'")


def _read(path: Path, speakers: tuple[str, ...]) -> Iterator[Dialogue]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"cannot be read ({error})", where=path) from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield _dialogue(json.loads(line), speakers)
            except ValueError as error:
                fields = ", ".join([*speakers, "topic", "messages"])
                raise FormatError(f"{error}", where=f"{path} line {number}", do=f"a line needs {fields}") from error


def _dialogue(row: Any, speakers: tuple[str, ...]) -> Dialogue:
    """Raises ValueError that says what is wrong."""
    _, messages = text_or_messages(row)
    if messages is None:
        raise ValueError("is a text, not a dialogue")
    for name in (*speakers, "topic"):
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise ValueError(f"has no {name!r}")
    if not all(message["content"].strip() for message in messages):
        raise ValueError("has a message without words")
    roles = [message["role"] for message in messages]
    if roles != [SPEAKERS[n % 2] for n in range(len(roles))] or len(roles) < 2:
        raise ValueError("is not spoken by user and assistant in turn")
    plain = tuple({"role": message["role"], "content": message["content"]} for message in messages)
    return Dialogue(row["topic"], plain, **{speaker: row[speaker] for speaker in speakers})


# ---------------------------------------------------------------- what is wrong with it
def check_dialogues(corpus: DialogueCorpus, word_families: Mapping[str, str] | None = None) -> list[Problem]:
    """Every problem of a dialogue corpus, errors first; word_families: emotion to regular expression.

    Errors: 'crossing' (an emotion that no user, or no assistant, of a topic has), 'leak' (a speaker names the emotion
    of either, or a word of its family), 'duplicate' (a turn said twice). Warnings: 'balance' (more than once), 'pair'
    (both speakers have one emotion), 'neutral' (a topic without flat dialogues).
    """
    problems: list[Problem] = []
    for speaker in SPEAKERS:
        cells = Counter((getattr(one, speaker), one.topic) for one in corpus.dialogues)
        for emotion in corpus.emotions:
            for topic in corpus.topics:
                count, where = cells[emotion, topic], f"{emotion}, {speaker}, {topic}"
                if not count:
                    problems.append(Problem("error", "crossing", where, "no dialogue"))
                elif count > 1:
                    problems.append(Problem("warning", "balance", where, f"{count} dialogues"))
    families = word_families or {}
    patterns = {e: re.compile(rf"\b(?:{families.get(e, re.escape(e))})\b", re.IGNORECASE) for e in corpus.emotions}
    said: dict[str, str] = {}
    for number, one in enumerate(corpus.dialogues, 1):
        where = f"dialogue {number} ({one.user}, {one.assistant}, {one.topic})"
        if one.user == one.assistant:
            problems.append(Problem("warning", "pair", where, "both speakers have one emotion"))
        for message in one.messages:
            for named in (one.user, one.assistant):
                if named and (found := patterns[named].search(message["content"])):
                    problems.append(Problem("error", "leak", where, f"names an emotion: {found.group()!r}"))
            first = said.setdefault(message["content"], where)
            if first != where:
                problems.append(Problem("error", "duplicate", where, f"says the same as {first}"))
    flat = {one.topic for one in corpus.neutral}
    if flat:
        bare = [topic for topic in corpus.topics if topic not in flat]
        problems += [Problem("warning", "neutral", topic, "no flat dialogue") for topic in bare]
    return sorted(problems, key=lambda problem: problem.severity != "error")
