"""Conversations: emotions by token, turn and speaker, where the assistant is about to speak, and while it speaks."""

from saefeat.trace.alerts import Alert, Fired, fired, parse_alert
from saefeat.trace.conversations import read_conversations
from saefeat.trace.figures import LINES, conversation_figure
from saefeat.trace.layout import Layout, lay_out
from saefeat.trace.monitor import Monitor, Reading
from saefeat.trace.readers import Reader, RunningMean, reply_reader, reply_readout, turn_reader, turn_readout
from saefeat.trace.trace import TokenScores, Trace, Turn, trace
from saefeat.trace.windows import WINDOW, Window, windows

__all__ = [
    "LINES",
    "WINDOW",
    "Alert",
    "Fired",
    "Layout",
    "Monitor",
    "Reader",
    "Reading",
    "RunningMean",
    "TokenScores",
    "Trace",
    "Turn",
    "Window",
    "conversation_figure",
    "fired",
    "lay_out",
    "parse_alert",
    "read_conversations",
    "reply_reader",
    "reply_readout",
    "trace",
    "turn_reader",
    "turn_readout",
    "windows",
]
