"""Progress where no bar can be drawn: log lines, seldom, that reckon what is left from what this run has done."""

from __future__ import annotations

import logging

import pytest

from saefeat.cli.common import Settings
from saefeat.cli.progress import Lines, stages


def test_lines_come_once_a_minute_and_say_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    with caplog.at_level(logging.INFO, "saefeat.stages"):
        lines = Lines("harvest", clock=lambda: now)
        for second in range(0, 241, 10):  # a run that continues: 4,000 of 10,000 were there
            now = float(second)
            lines.tell(4_000 + 10 * second, 10_000)
        now = 300.0
        lines.tell(5, 0)
        now = 360.0
        lines.tell(6, 12)
        lines.end()
    assert [record.message for record in caplog.records] == [
        "harvest ...",
        "harvest: 4,700 of 10,000, about 9 min left",
        "harvest: 5,300 of 10,000, about 8 min left",
        "harvest: 5,900 of 10,000, about 7 min left",
        "harvest: 5",
        "harvest: 6 of 12, about 6 min left",
        "harvest done in 6 min",
    ]


def test_what_takes_a_moment_is_not_worth_a_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.INFO, "saefeat.stages"):
        with stages(Settings()) as report:
            report("one")(1, 2)
            report("two")(2, 2)
        assert not caplog.records
        monkeypatch.setattr("saefeat.cli.progress.MOMENT", 0.0)
        with stages(Settings()) as report:
            report("one")(1, 2)
            report("two")
    said = [record.message for record in caplog.records]
    assert [line.partition(" done")[0] for line in said] == ["one ...", "one", "two"]
