"""Training (576 -> 4,608, k 32, batch 2,048) from a harvest on disk against the same training from memory.

    python tests/benchmarks/hdf5_feed.py [--json]

Two runs of the trainer go on in turns, 32 steps each: one is fed from HDF5 shards, whose checksums are verified, the
other from one tensor that holds all rows, drawn in random order. The harvest is larger than what the store mixes at
once, so that about one pool of 65,536 rows is read in each turn. Turns are short and three times as many as --rounds
says: what is compared differs by less than one turn from the next.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from common import arguments, interleave, report

sys.path.insert(0, str(Path(__file__).parents[2]))

from saefeat.config import HarvestConfig, TrainConfig
from saefeat.files import shipped
from saefeat.harvest import ActivationStore, Fed, harvest
from saefeat.sae.train import _advance, _job
from saefeat.subject import Subject
from tests.tiny import tiny_model, tiny_tokenizer

D, F, K, N, STEPS = 576, 4608, 32, 2048, 32
TOKENS = 160 * 1024
HELDOUT = 0.02


class InMemory:
    """A store whose rows were all read beforehand."""

    def __init__(self, store: ActivationStore) -> None:
        self.store = store
        held = store.heldout_contexts(0, 1 - HELDOUT, batch_contexts=64)
        self.rows_ND = torch.cat([x_NTD[usable_NT] for _, x_NTD, usable_NT in held])

    def __getattr__(self, name: str) -> object:
        return getattr(self.store, name)

    def feed(self, *_: object, **__: object) -> Iterator[Fed]:
        chance = torch.Generator().manual_seed(0)
        while True:
            order_N = torch.randperm(len(self.rows_ND), generator=chance)
            for i in range(0, len(order_N) - N, N):
                yield Fed({0: self.rows_ND[order_N[i : i + N]]}, (0, 0, 0))


def training(source: ActivationStore, out: Path) -> Callable[[], None]:
    """What trains on for some steps each time it is called."""
    # nothing counts as dead: the auxiliary loss would set in at other steps on one side than on the other
    config = TrainConfig(features=F, k=K, batch=N, heldout=HELDOUT, dead_after=10**12)
    job = _job(source, config, out, "cpu")
    job.work.mkdir()
    job.begin(source)
    feed = source.feed((0,), N, seed=0, heldout=HELDOUT)
    state = job.state
    assert state is not None

    def run() -> None:
        for _ in range(STEPS):
            _advance(job, state, next(feed).x[0], 10**6, source, 0.0)

    return run


def main() -> None:
    given = arguments(__doc__ or "")
    place = Path(tempfile.mkdtemp())
    try:
        model = tiny_model("llama", layers=1, d_model=D, vocab=512, context=256, seed=0).bfloat16()
        text = tuple(map(str, sorted((shipped("corpora") / "stories").glob("t*.jsonl"))))
        reading = HarvestConfig(text=text, layers=(0,), tokens=TOKENS, context=256)
        store = ActivationStore(harvest(Subject("random", model, tiny_tokenizer()), reading, place / "activations"))
        sides = {"from hdf5": training(store, place / "disk")}
        sides["from memory"] = training(InMemory(store), place / "memory")  # type: ignore[arg-type]
        seconds = interleave(sides, 3 * given.rounds)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    speed = {name: STEPS * N / value for name, value in seconds.items()}
    report("hdf5_feed", speed, {"from_hdf5_vs_ram": speed["from hdf5"] / speed["from memory"]}, as_json=given.json)


if __name__ == "__main__":
    main()
