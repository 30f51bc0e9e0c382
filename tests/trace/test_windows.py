"""Windows over long conversations: every token read once, with context before it, wherever the conversation ends."""

from hypothesis import given
from hypothesis import strategies as st

from saefeat.trace import Window, windows


def test_what_fits_is_one_pass() -> None:
    assert windows(100, [3, 50], 3, 100) == [Window(head=0, start=0, stop=100, first=0)]


@given(st.integers(1, 3000), st.integers(0, 40), st.integers(32, 300), st.integers(1, 90))
def test_every_token_is_read_once_and_sees_half_a_window(n: int, head: int, room: int, every: int) -> None:
    made = windows(n, list(range(head, n, every)), head, room)
    assert [t for w in made for t in range(w.first, w.stop)] == list(range(n))
    for window in made:
        ids = window.ids(range(n))
        assert len(ids) <= room
        assert [ids[window.place(t)] for t in range(window.first, window.stop)] == list(
            range(window.first, window.stop)
        )
        own_head = min(head, 1) if head > room / 4 else head
        if window.start:
            assert ids[: window.head] == list(range(own_head))
            assert window.first - window.start >= (room - own_head) // 2


@given(st.integers(1, 2000), st.integers(0, 500), st.integers(32, 200))
def test_what_comes_later_moves_no_window(n: int, more: int, room: int) -> None:
    starts = list(range(5, n + more, 37))
    short, long = windows(n, [s for s in starts if s < n], 5, room), windows(n + more, starts, 5, room)
    assert short[:-1] == long[: len(short) - 1]
    last, same = short[-1], long[len(short) - 1]
    assert (last.head, last.start, last.first) == (same.head, same.start, same.first)


def test_windows_start_where_a_turn_starts_if_one_does_in_time() -> None:
    made = windows(400, [4, 44, 300], 4, 100)
    assert made[1].start == 44  # read up to 100: from 28 to 52 would do
    assert made[2].start == made[1].stop - 48
