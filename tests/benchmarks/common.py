"""What every benchmark shares: interleaved rounds of both sides, medians, the machine, and one report."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable


def arguments(description: str) -> argparse.Namespace:
    """--json and --rounds."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="Print the figures as JSON.")
    parser.add_argument("--rounds", type=int, default=5, help="Interleaved rounds; the median counts.")
    return parser.parse_args()


def interleave(sides: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """The median seconds of each side, a warm-up first, the sides taking turns so that noise hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(rounds + 1):
        for name, run in sides.items():
            begun = time.perf_counter()
            run()
            if round_:
                seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values) for name, values in seconds.items()}


def report(name: str, figures: dict[str, float], ratios: dict[str, float], *, as_json: bool) -> None:
    """Print tokens (or texts) a second of each side, and the ratios."""
    import torch

    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    if as_json:
        print(json.dumps({"benchmark": name, "machine": machine, "per_second": figures, "ratios": ratios}))
        return
    print(f"{name}  ({machine})")
    for side, value in figures.items():
        print(f"  {side:28} {value:12,.0f} /s")
    for ratio, value in ratios.items():
        print(f"  {ratio:28} {value:12.2f}")
