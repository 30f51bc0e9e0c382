"""Harvest (SmolLM2, layer 19, bf16 where fast) against the bare truncated forward on the same tokens.

python tests/benchmarks/harvest.py [--json]
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import torch
from common import arguments, interleave, report

from saefeat.config import HarvestConfig
from saefeat.files import shipped
from saefeat.harvest import harvest
from saefeat.subject import load_subject

LAYER, TOKENS, CONTEXT, BATCH = 19, 16_384, 256, 16


def main() -> None:
    given = arguments(__doc__ or "")
    subject = load_subject("smollm2-135m-instruct")
    place = Path(tempfile.mkdtemp())
    stories = shipped("corpora") / "stories" / "t01_letter.jsonl"
    texts = [json.loads(line)["text"] for line in stories.read_text(encoding="utf-8").splitlines()]
    ids = [i for text in texts for i in subject.tokenize(text)][:TOKENS]
    ids_NT = torch.tensor(ids).view(-1, CONTEXT)
    config = HarvestConfig(text=(str(stories),), layers=(LAYER,), tokens=TOKENS, context=CONTEXT, batch_contexts=BATCH)

    def ours() -> None:
        shutil.rmtree(place / "out", ignore_errors=True)
        harvest(subject, config, place / "out")

    def bare() -> None:
        for ids_BT in ids_NT.split(BATCH):
            subject.residuals(ids_BT, [LAYER])

    try:
        seconds = interleave({"saefeat harvest": ours, "bare forward": bare}, min(given.rounds, 3))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    speed = {name: TOKENS / value for name, value in seconds.items()}
    report("harvest", speed, {"vs_bare": speed["saefeat harvest"] / speed["bare forward"]}, as_json=given.json)


if __name__ == "__main__":
    main()
