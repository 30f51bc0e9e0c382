"""The machine at hand: what it is, and how fast it multiplies, reads and encodes, in a second each."""

from __future__ import annotations

import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from saefeat.label import label_features
from saefeat.subject import Subject

MATMUL_ROWS, ENCODE_ROWS, STATISTICS_COLUMNS = 2048, 256, (64, 512)
SMALL, FIT_TEXTS, FIT_PRODUCTS, FIT_GROWTH = 512, 2052, 3850, 1.75
"""Fitting prototypes to FIT_TEXTS texts takes as long as FIT_PRODUCTS products of SMALL x SMALL; measured at 1,026 and
2,052 texts of 171 emotions."""


def seconds_of(run: Callable[[], object], budget: float) -> float:
    """The median time of a call after the first, of as many as fit into `budget` seconds, at least one."""
    begun = time.perf_counter()
    run()
    took: list[float] = []
    while not took or time.perf_counter() - begun < budget:
        before = time.perf_counter()
        run()
        took.append(time.perf_counter() - before)
    return statistics.median(took)


def forward_speed(subject: Subject, layer: int, contexts: int, context: int, *, budget: float) -> float:
    """Tokens a second of the forward pass up to `layer` on full contexts of random tokens."""
    chance = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(subject.n_vocab, (contexts, min(context, subject.context)), generator=chance)

    def run() -> None:
        subject.residuals(ids_BT, [layer])[layer][0, 0, 0].item()  # waits for the device

    return ids_BT.numel() / seconds_of(run, budget)


def matmul_speed(width: int, dtype: torch.dtype, device: torch.device, *, budget: float) -> float:
    """FLOP/s of a product such as a block's MLP makes."""
    x_ND, W_DF = (torch.randn(size, device=device).to(dtype) for size in ((MATMUL_ROWS, width), (width, 4 * width)))
    return 2 * MATMUL_ROWS * width * 4 * width / seconds_of(lambda: (x_ND @ W_DF)[0, 0].item(), budget)


def encode_speed(features: int, d_model: int, device: torch.device, *, budget: float) -> float:
    """Tokens a second of an SAE's encoder in float32, weights read anew for each few hundred tokens."""
    x_ND, W_DF = torch.randn(ENCODE_ROWS, d_model, device=device), torch.randn(d_model, features, device=device)
    return ENCODE_ROWS / seconds_of(lambda: (x_ND @ W_DF).relu_()[0, 0].item(), budget)


def statistics_seconds(emotion_N: np.ndarray, topic_N: np.ndarray, n_emotions: int, features: int) -> float:
    """Seconds of the label statistics of so many features, from those of a few and of some more."""
    chance = np.random.default_rng(0)
    X_NF = chance.exponential(size=(len(emotion_N), STATISTICS_COLUMNS[1])).astype(np.float32)
    X_NF *= chance.random(X_NF.shape) < 0.3
    took = []
    for columns in STATISTICS_COLUMNS:
        before = time.perf_counter()
        label_features(X_NF[:, :columns], emotion_N, topic_N, np.full(columns, 0.3, np.float32), n_emotions)
        took.append(time.perf_counter() - before)
    few, more = STATISTICS_COLUMNS
    each = max(0.0, took[1] - took[0]) / (more - few)
    return took[0] + each * max(0, features - few)


def fit_seconds(n_texts: int, *, budget: float) -> float:
    """Seconds of fitting prototypes to so many texts, reckoned from products of small float64 matrices."""
    K_NN = np.random.default_rng(0).normal(size=(SMALL, SMALL))
    return FIT_PRODUCTS * seconds_of(lambda: K_NN @ K_NN, budget) * (n_texts / FIT_TEXTS) ** FIT_GROWTH


# ---------------------------------------------------------------- what it is
def machine(device: torch.device) -> str:
    """'x86_64, 2 cores, 8 GB of memory (6 GB free), cpu'."""
    total, free = memory()
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    cores = os.cpu_count()
    return f"{platform.machine()}, {cores} cores, {total / 1e9:.0f} GB of memory ({free / 1e9:.0f} free), {accelerator}"


def memory() -> tuple[int, int]:
    """(all, available) bytes of memory; what is available counts as all where the system does not tell."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        told = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        return total, told["MemAvailable"]
    except (OSError, KeyError, ValueError, IndexError):  # not Linux
        return total, total


def peak_memory() -> int:
    """The most bytes of memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
