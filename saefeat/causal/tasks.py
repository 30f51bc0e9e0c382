"""Programming tasks in pairs: one whose tests cannot all be passed honestly, and the same with the snag removed.

A task is one function to write, a few visible tests, and hidden ones. Kinds of impossible tasks: `contradiction` (a
test that denies what the task says), `information` (what is asked for is not in what is given), `means` (too few
questions may be asked), `time` (too much work for the seconds allowed).
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from saefeat.errors import FormatError, InputError
from saefeat.files import fingerprint, shipped

KINDS = ("contradiction", "information", "means", "time")
ASK = "ask"
"""The name that stands, in a call, for the function that asks questions."""


@dataclass(frozen=True, kw_only=True)
class Questions:
    """A function that a solution may ask questions with, a limited number of times; what it knows stays hidden.

    kind at_least: `of` is a number, ask(k) tells whether it is at least k. less: `of` is a list, ask(i, j) tells
    whether the item at i is less than the one at j.
    """

    kind: Literal["at_least", "less"]
    of: Any
    times: int

    def answer(self, arguments: list[Any]) -> bool:
        """The answer. Raises ValueError for a question that makes no sense."""
        if not all(isinstance(a, int) for a in arguments):
            raise ValueError("questions take whole numbers")
        if self.kind == "at_least" and len(arguments) == 1:
            return bool(self.of >= arguments[0])
        if self.kind == "less" and len(arguments) == 2 and all(0 <= a < len(self.of) for a in arguments):
            return bool(self.of[arguments[0]] < self.of[arguments[1]])
        raise ValueError(f"{self.kind} cannot be asked {tuple(arguments)}")

    def __str__(self) -> str:
        if self.kind == "at_least":
            return f"Secret({self.of!r}, questions={self.times}).at_least"
        return f"Weights({self.of!r}, comparisons={self.times}).less"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One test: `call` must return the literal `expect`. In the call, the name `ask` stands for `questions`."""

    call: str
    expect: str
    questions: Questions | None = None

    @property
    def expected(self) -> Any:
        return ast.literal_eval(self.expect)

    @property
    def arguments(self) -> list[Any]:
        """The call's arguments, literals; the string '<ask>' where questions stand."""
        call = ast.parse(self.call, mode="eval").body
        assert isinstance(call, ast.Call)
        asks = (isinstance(a, ast.Name) and a.id == ASK for a in call.args)
        return ["<ask>" if is_ask else ast.literal_eval(a) for a, is_ask in zip(call.args, asks, strict=True)]

    def __str__(self) -> str:
        call = self.call if self.questions is None else self.call.replace(ASK, str(self.questions))
        return f"assert {call} == {self.expect}"


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task. reference: for a possible one a solution, for an impossible one a cheat that special-cases the visible
    tests; why: the reason why it is impossible, else ''."""

    id: str
    pair: str
    kind: str
    possible: bool
    entry: str
    text: str
    visible: tuple[Case, ...]
    hidden: tuple[Case, ...]
    reference: str
    why: str

    @property
    def prompt(self) -> str:
        """What the model is told."""
        tests = "\n".join(map(str, self.visible))
        return f"{self.text}\n\nThe tests:\n```python\n{tests}\n```"


def load_tasks(directory: Path | str | None = None) -> tuple[Task, ...]:
    """The tasks of every .jsonl in a directory (None: those that ship), in order.

    Raises InputError: no such directory, no tasks; FormatError: a line that is no task, with its number.
    """
    folder = shipped("corpora") / "tasks" if directory is None else Path(directory)
    if not folder.is_dir():
        raise InputError("is no folder of tasks", where=folder)
    tasks = [
        _task(line, f"{path} line {number}")
        for path in sorted(folder.glob("*.jsonl"))
        for number, line in enumerate(_text(path).splitlines(), 1)
        if line.strip()
    ]
    if not tasks:
        raise FormatError("holds no tasks (no lines in .jsonl files)", where=folder)
    for i, task in enumerate(tasks):
        if task.id in {other.id for other in tasks[:i]}:
            raise FormatError(f"two tasks are called {task.id!r}", where=folder)
    return tuple(tasks)


def tasks_fingerprint(tasks: tuple[Task, ...]) -> str:
    """16 hex digits of all that a model can see of tasks and of what its code is tested with."""
    return fingerprint([[task.id, task.prompt, *map(str, task.hidden)] for task in tasks])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"cannot be read ({error})", where=path) from error


def _task(line: str, where: str) -> Task:
    try:
        row = json.loads(line)
        task = Task(
            **{name: row[name] for name in ("id", "pair", "kind", "entry", "text", "reference")},
            possible=bool(row["possible"]),
            visible=tuple(_case(case) for case in row["visible"]),
            hidden=tuple(_case(case) for case in row["hidden"]),
            why=row.get("why", ""),
        )
        _check(task)
    except (ValueError, KeyError, TypeError, AttributeError, SyntaxError, AssertionError) as error:
        what = f"has no {error}" if isinstance(error, KeyError) else str(error) or "is malformed"
        raise FormatError(f"is no task ({what})", where=where) from error
    return task


def _case(row: Mapping[str, Any]) -> Case:
    told = row.get("questions")
    return Case(call=row["call"], expect=row["expect"], questions=None if told is None else Questions(**told))


def _check(task: Task) -> None:
    """Raise ValueError if a task cannot be used."""
    for name in ("id", "pair", "entry", "text", "reference"):
        if not isinstance(getattr(task, name), str) or not getattr(task, name).strip():
            raise ValueError(f"{name} is empty")
    if task.kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {task.kind!r}")
    if not task.visible or not task.hidden:
        raise ValueError("needs visible and hidden tests")
    if not task.possible and not task.why:
        raise ValueError("an impossible task needs a why")
    for case in (*task.visible, *task.hidden):
        call = ast.parse(case.call, mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == task.entry):
            raise ValueError(f"{case.call} is no call of {task.entry}")
        if ("<ask>" in case.arguments) != (case.questions is not None):
            raise ValueError(f"{case.call} and its questions do not fit")
        _ = case.expected
