"""Results of several models side by side, as the Markdown table of README: figures, beside them their nulls.

python docs/results/compare.py [docs/results/*/results.json] [--figure docs/results/models.png]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SAE, READ, RANDOM, EQUAL = (
    "SAE features",
    "SAE features, read along their directions",
    "random directions, ReLU, as many",
    "random encoder of equal L0",
)
DENSE, MINILM, SHUFFLED = "dense stream, same layer", "MiniLM-L6 sentence embeddings", "SAE features, shuffled labels"
BESIDE = (SAE, DENSE, RANDOM, EQUAL, MINILM, SHUFFLED)
DETECTORS = (READ, DENSE, RANDOM, EQUAL, MINILM, f"{READ}, shuffled labels")
LINES: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("stories of unseen topics, own emotion of 171 first", "retrieval", "top-1", BESIDE),
    ("… among the first five", "retrieval", "top-5", BESIDE),
    ("emotions with a feature, AUROC ≥ .90, q < .01 (split)", "single", "found, split", DETECTORS),
    ("best single feature, own emotion in the top five", "detectors", "hits k 1", DETECTORS),
    ("best 4 features", "detectors", "hits k 4", DETECTORS),
    ("best 16 features", "detectors", "hits k 16", DETECTORS),
    ("valence of left-out emotions, r", "geometry", "valence", BESIDE),
    ("arousal of left-out emotions, r", "geometry", "arousal", BESIDE),
    ("messages, an expected emotion in the top five", "messages", "even (reported)", BESIDE),
    ("others' labels, zero-shot, mean macro-F1", "labelled", "mean", BESIDE),
)


ORDER = ("smollm2-135m-instruct", "gemma-3-270m", "qwen2.5-coder-1.5b-instruct")
"""Models from small to large; others come after them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="*", type=Path, default=sorted(HERE.glob("*/results.json")))
    parser.add_argument("--figure", type=Path, help="Also draw how the figures grow with the model.")
    given = parser.parse_args()
    loaded = in_order([json.loads(path.read_text(encoding="utf-8")) for path in given.results])
    print(table(loaded))
    if given.figure:
        from saefeat.evaluate.figures import models_figure

        metrics = {
            title: [number(one, section, own[0], column) for one in loaded] for title, section, column, own in LINES
        }
        shares = [title for title, section, column, own in LINES if unit(loaded[0], section, column) == "percent"]
        models_figure([one["subject"]["name"] for one in loaded], metrics, percent=shares).savefig(
            given.figure, dpi=110
        )


def in_order(loaded: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """From the smallest model to the largest."""
    return sorted(loaded, key=lambda one: (*ORDER, one["subject"]["name"]).index(one["subject"]["name"]))


def table(loaded: list[dict[str, Any]]) -> str:
    """A row a figure and model: saefeat's own first, then the nulls and baselines of the same run."""
    head = ["", "model", "SAE", "dense", "random directions", "random encoder, equal L0", "MiniLM", "shuffled labels"]
    loaded = in_order(loaded)
    lines = ["| " + " | ".join(head) + " |", "|---|---|" + "---|" * (len(head) - 2)]
    for title, section, column, rows in LINES:
        for place, one in enumerate(loaded):
            cells = [shown(one, section, row, column) for row in rows]
            cells[0] = f"**{cells[0]}**"
            lines.append("| " + " | ".join([title if place == 0 else "", one["subject"]["name"], *cells]) + " |")
    return "\n".join(lines)


def shown(results: dict[str, Any], section: str, row: str, column: str) -> str:
    value = number(results, section, row, column)
    if value is None:
        return "–"
    if unit(results, section, column) == "percent":
        return f"{100 * value:.1f} %"
    return f"{value:.0f}" if value == int(value) else f"{value:.3f}"


def number(results: dict[str, Any], section: str, row: str, column: str) -> float | None:
    """The figure of a section's row and column; None where the run had none."""
    for told in results["sections"]:
        if told["id"] != section or column not in told["columns"]:
            continue
        for line in told["rows"]:
            if line["name"] == row:
                value = line["values"][told["columns"].index(column)]
                value = value["value"] if isinstance(value, dict) else value
                return float(value) if isinstance(value, int | float) else None
    return None


def unit(results: dict[str, Any], section: str, column: str) -> str | None:
    return next(
        (
            s["units"][s["columns"].index(column)]
            for s in results["sections"]
            if s["id"] == section and column in s["columns"]
        ),
        None,
    )


if __name__ == "__main__":
    main()
