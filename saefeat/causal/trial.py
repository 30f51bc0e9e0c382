"""Tests of a model's code: it runs in the sandbox, and what it returns is judged outside.

The function is called with one test's arguments after another. Inside, nothing knows what is expected or what will be
asked next, so a result can only be had by returning it: not by leaving early, by objects that equal everything, by
changing what asserts. Each question carries a fresh nonce; an answer without it was not given to that question.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saefeat.causal.inside import decode, encode
from saefeat.causal.sandbox import Program, Sandbox
from saefeat.causal.tasks import Case

INSIDE = Path(__file__).with_name("inside.py")
SHOWN = 200
"""Characters of a returned value that are shown."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A test's result. got: the value's repr, or what went wrong; asked: how many questions it asked."""

    passed: bool
    got: str
    asked: int = 0


@dataclass(frozen=True, kw_only=True)
class Trial:
    """load_error: what the code raised when it was loaded. forged: it wrote answers past the tests. left: it ended the
    process before the tests were done, of its own accord."""

    results: tuple[Result, ...]
    load_error: str | None
    forged: bool
    left: bool
    out_of_time: bool
    seconds: float

    @property
    def passed(self) -> bool:
        return all(result.passed for result in self.results)

    @property
    def n_passed(self) -> int:
        return sum(result.passed for result in self.results)


class _Forged(Exception):
    pass


def run_tests(sandbox: Sandbox, code: str, entry: str, cases: Sequence[Case]) -> Trial:
    """Load `code` in a fresh sandbox and test its function `entry`. Nothing that the code does raises."""
    results: list[Result] = []
    load_error, forged, silent = None, False, False
    code = code.encode("utf-8", errors="replace").decode()
    with sandbox.start(INSIDE.read_text(encoding="utf-8"), {"solution.py": code}) as program:
        try:
            loaded = _line(program)
            silent = loaded is None
            if loaded is not None:
                if not isinstance(loaded.get("loaded", 0), str | None):
                    raise _Forged
                load_error = loaded["loaded"]
            for case in cases:
                result = None if silent else _test(program, entry, case)
                if result is None:
                    silent = True
                    break
                results.append(result)
        except _Forged:
            forged = True
        ended = program.end()
    why = "out of time" if ended.out_of_time else "the process ended" if silent else "not run"
    crashed = "Traceback" in ended.stderr or "Fatal Python error" in ended.stderr
    left = silent and not ended.out_of_time and ended.exit_code is not None and not crashed
    if not results and silent and ended.stderr.strip():
        why = ended.stderr.strip().splitlines()[-1][:SHOWN]
    missing = [Result(passed=False, got="not run")] * (len(cases) - len(results))
    if missing:
        missing[0] = Result(passed=False, got=why)
    return Trial(
        results=(*results, *missing), load_error=load_error, forged=forged, left=left, out_of_time=ended.out_of_time,
        seconds=ended.wall_seconds,
    )  # fmt: skip


def _test(program: Program, entry: str, case: Case) -> Result | None:
    """One test's result; None if no answer came."""
    nonce = secrets.token_hex(8)
    arguments = [{"ask": True} if a == "<ask>" else encode(a) for a in case.arguments]
    asked, over = 0, False
    if not program.send({"nonce": nonce, "entry": entry, "arguments": arguments}):
        return None
    while (said := _line(program)) is not None:
        if said.get("nonce") != nonce:
            raise _Forged
        if "ask" in said and case.questions is not None:
            asked += 1
            over = over or asked > case.questions.times
            if not program.send(_reply(case, said["ask"], over)):
                return None
        elif "error" in said:
            return Result(passed=False, got=str(said["error"])[:SHOWN], asked=asked)
        elif "value" in said:
            value, shown = _value(said["value"])
            right = shown is None and not over and _equal(value, case.expected)
            return Result(passed=right, got=shown or _short(value), asked=asked)
        else:
            raise _Forged
    return None


def _reply(case: Case, arguments: Any, over: bool) -> dict[str, Any]:
    assert case.questions is not None
    if over:
        return {"refused": f"no questions left, {case.questions.times} were allowed"}
    try:
        return {"answer": case.questions.answer([decode(a, _no_function) for a in arguments])}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        return {"refused": str(error)[:SHOWN]}


def _line(program: Program) -> dict[str, Any] | None:
    line = program.receive()
    if line is None:
        return None
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        raise _Forged from None
    if not isinstance(said, dict):
        raise _Forged
    return said


def _value(encoded: Any) -> tuple[Any, str | None]:
    """(plain value, None), or (None, what to show) of what is no plain data."""
    try:
        if isinstance(encoded, dict) and "odd" in encoded:
            return None, f"a {str(encoded['odd'])[:60]}, which is no plain data"
        return decode(encoded, _no_function), None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None, "something that is no plain data"


def _no_function(*arguments: Any) -> None:
    raise ValueError("no questions here")


def _equal(value: Any, expected: Any) -> bool:
    try:
        return bool(value == expected)
    except RecursionError:
        return False


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of too many digits, a list too deep
        text = "a value too large to show"
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"
