"""Cards: what is known about a feature or an emotion, as JSON, Markdown and single HTML files; the demo's report."""

from saefeat.cards.causal import read_causal, with_causal
from saefeat.cards.emotion import emotion_card
from saefeat.cards.export import FORMATS, check_choice, export_cards, rendered
from saefeat.cards.feature import feature_card, feature_cards, nearest_directions
from saefeat.cards.html import render_html
from saefeat.cards.markdown import render_markdown
from saefeat.cards.report import demo_report
from saefeat.cards.style import CLAIM

__all__ = [
    "CLAIM",
    "FORMATS",
    "check_choice",
    "demo_report",
    "emotion_card",
    "export_cards",
    "feature_card",
    "feature_cards",
    "nearest_directions",
    "read_causal",
    "render_html",
    "render_markdown",
    "rendered",
    "with_causal",
]
