"""What runs inside the sandbox beside a model's code: calls its function with what it is asked and says what came back.

It compares nothing and knows no expected value: those stay outside, where they cannot be reached. Standard library
alone; it is started by its text, not imported.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, TextIO

ASKED, ANSWERS = 3, 4


def main() -> None:
    with open(ASKED, encoding="utf-8") as asked, open(ANSWERS, "w", encoding="utf-8") as answers:
        serve(asked, answers)


def serve(asked: TextIO, answers: TextIO) -> None:
    """Load the solution, say whether that worked, then answer question after question."""

    def say(value: Any) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    space: dict[str, Any] = {"__name__": "solution"}
    failed = None
    try:
        with open("solution.py", encoding="utf-8") as file:
            exec(compile(file.read(), "solution.py", "exec"), space)
    except BaseException as error:
        failed = _told(error)
    say({"loaded": failed})
    for line in asked:
        question = json.loads(line)
        nonce = question["nonce"]

        def ask(*arguments: Any, nonce: str = nonce) -> Any:
            say({"nonce": nonce, "ask": [encode(a) for a in arguments]})
            answer = json.loads(asked.readline())
            if "refused" in answer:
                raise RuntimeError(answer["refused"])
            return answer["answer"]

        try:
            function = space[question["entry"]]
            answer = {"value": encode(function(*[decode(a, ask) for a in question["arguments"]]))}
        except KeyError as error:
            missing = error.args[:1] == (question["entry"],) and question["entry"] not in space
            answer = {"error": f"NameError: {question['entry']} is not defined" if missing else _told(error)}
        except BaseException as error:
            answer = {"error": _told(error)}
        say({"nonce": nonce, **answer})


def encode(value: Any) -> Any:
    """Plain data as JSON holds it; of anything else only the name of its type."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return {"int": hex(value)}  # of any length: decimal digits are limited
    if isinstance(value, float):
        return {"float": float.hex(value)}
    if isinstance(value, dict):
        return {"dict": [[encode(k), encode(v)] for k, v in dict.items(value)]}
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [encode(item) for item in value]}
    return {"odd": type(value).__name__}


def decode(value: Any, ask: Callable[..., Any]) -> Any:
    """What `encode` wrote; {"ask": true} is the function that asks outside."""
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "ask":
        return ask
    if kind == "int":
        return int(held, 16)
    if kind == "float":
        return float.fromhex(held)
    if kind == "dict":
        return {decode(k, ask): decode(v, ask) for k, v in held}
    return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[kind](decode(v, ask) for v in held)


def _told(error: BaseException) -> str:
    """'ValueError: what (line 3)', the line that of the solution."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "solution.py":
            line = trace.tb_lineno
        trace = trace.tb_next
    if isinstance(error, SyntaxError):
        line = error.lineno
    what = f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}"[:300].rstrip(": ")
    return what if line is None else f"{what} (line {line})"


if __name__ == "__main__":
    sys.setrecursionlimit(1_000)
    main()
