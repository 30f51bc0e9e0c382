"""What a forward pass sees of a conversation that is longer than one pass takes.

A conversation of at most `room` tokens is one pass. A longer one is read in windows: each sees the head (what stands
before the first turn that is no system prompt) and then a stretch of the conversation, and is read only at the tokens
that no window before it has read. A token so sees the head and at least half a window before it. Windows start where a
turn starts if one starts in time, and are laid from the front: what comes later moves no window, so a turn's reading
does not depend on the turns after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WINDOW = 2048
"""Tokens a pass takes, if the model takes as many."""
LARGEST_HEAD = 0.25
"""A head that takes more than this share of a window is left out of later windows, but for its first token."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """A pass over tokens [0, head) and [start, stop) of a conversation, read at [first, stop)."""

    head: int
    start: int
    stop: int
    first: int

    def ids(self, conversation: Sequence[int]) -> list[int]:
        """The token ids of the pass."""
        return [*conversation[: self.head], *conversation[self.start : self.stop]]

    def place(self, position: int) -> int:
        """Where in the pass the conversation's token `position`, in [start, stop), stands."""
        return self.head + position - self.start


def windows(n_tokens: int, turn_starts: Sequence[int], head: int, room: int) -> list[Window]:
    """The windows over a conversation of `n_tokens`; room: tokens a pass takes, at least 8."""
    if head > LARGEST_HEAD * room:
        head = 1  # the first token is what the others' attention rests on
    span = room - head
    made = [Window(head=0, start=0, stop=min(n_tokens, room), first=0)]
    while made[-1].stop < n_tokens:
        read = made[-1].stop
        latest, earliest = read - span // 2, read - span * 3 // 4
        start = max((s for s in turn_starts if earliest <= s <= latest), default=latest)
        made.append(Window(head=head, start=start, stop=min(n_tokens, start + span), first=read))
    return made
