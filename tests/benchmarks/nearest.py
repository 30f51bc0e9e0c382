"""`nearest` on a file of texts against the bare truncated forward of the same texts; and cold, as whole processes.

    python tests/benchmarks/nearest.py [--json] [--rounds 3]

vs_bare: texts a second of the library path that `saefeat nearest --input` takes (read, tokenise, forward, SAE, pool,
scores, ten emotions with their features), over those of the forward alone: the same texts, tokenised and batched by
length beforehand, in the same dtype, up to the same layer. cold: seconds of the whole process `saefeat nearest TEXT`
over those of a script that loads the same model with transformers and runs one forward of the same text.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch
from common import arguments, interleave, report

from saefeat.atlas import Atlas
from saefeat.files import shipped
from saefeat.subject import model_directory

CORPUS, TEXTS, BATCH_TOKENS = ("t01_letter.jsonl",), 160, 4096
ROUNDS = 3
TEXT = "I counted the coins again and the rent is due on Friday."
BARE = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
directory, text, dtype = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(directory)
model = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype)).eval()
with torch.inference_mode():
    model(**tokenizer(text, return_tensors="pt"))
"""


def texts() -> list[str]:
    lines = [
        line for name in CORPUS for line in (shipped("corpora") / "stories" / name).read_text("utf-8").splitlines()
    ]
    return [json.loads(line)["text"] for line in lines][:TEXTS]


def batches(sequences: list[list[int]]) -> list[torch.Tensor]:
    """Right-padded batches of like length, each at most BATCH_TOKENS with its padding."""
    order, made = sorted(sequences, key=len, reverse=True), []
    while order:
        size = max(1, BATCH_TOKENS // len(order[0]))
        part, order = order[:size], order[size:]
        ids_BT = torch.zeros(len(part), len(part[0]), dtype=torch.long)
        for row, ids in enumerate(part):
            ids_BT[row, : len(ids)] = torch.tensor(ids)
        made.append(ids_BT)
    return made


def process(*command: str) -> None:
    subprocess.run([sys.executable, *command], check=True, capture_output=True)


def main() -> None:
    given = arguments(__doc__ or "")
    atlas = Atlas.open()
    subject, rows = atlas.subject(), texts()
    readout = next(iter(atlas.readouts))
    layer = atlas.sae(atlas.readouts[readout]["sae"]).layer
    prepared = batches([subject.tokenize(text) for text in rows])

    def ours() -> None:
        assert sum(1 for _ in atlas.nearest(rows, readout=readout)) == len(rows)

    def bare() -> None:
        for ids_BT in prepared:
            subject.residuals(ids_BT, [layer])

    batch = interleave({"saefeat nearest": ours, "bare forward": bare}, min(given.rounds, ROUNDS))
    directory, dtype = str(model_directory(atlas.subject_name)), str(subject.dtype).removeprefix("torch.")
    assert Path(directory).is_dir()
    sides = {
        "saefeat nearest, cold": lambda: process("-m", "saefeat", "nearest", TEXT),
        "transformers script, cold": lambda: process("-c", BARE, directory, TEXT, dtype),
    }
    cold = interleave(sides, min(given.rounds, ROUNDS))
    speed = {name: len(rows) / value for name, value in batch.items()}
    ratios = {
        "vs_bare": speed["saefeat nearest"] / speed["bare forward"],
        "cold": cold["saefeat nearest, cold"] / cold["transformers script, cold"],
        "cold_seconds": cold["saefeat nearest, cold"],
        "script_cold_seconds": cold["transformers script, cold"],
    }
    report("nearest", speed, ratios, as_json=given.json)


if __name__ == "__main__":
    main()
