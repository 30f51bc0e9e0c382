"""Harvest (SmolLM2, layer 20, contexts of 256) against the bare truncated forward and sae-lens' activation store.

    python tests/benchmarks/harvest.py [--json]

All read the same stories with the same weights. The bare forward runs the blocks up to the layer on contexts that are
packed beforehand: the limit. sae-lens tokenises, packs, runs the Hugging Face model with its hook and early stop and
mixes, in float32 as it ships and in bfloat16, and writes nothing; saefeat tokenises, packs, runs and writes to disk.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import arguments, interleave, report

from saefeat.config import HarvestConfig
from saefeat.files import shipped
from saefeat.harvest import harvest
from saefeat.subject import Subject, load_subject

LAYER, TOKENS, CONTEXT, BATCH = 20, 16_384, 256, 16
ROUNDS = 3


def texts() -> tuple[Path, list[str]]:
    path = shipped("corpora") / "stories" / "t01_letter.jsonl"
    return path, [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


def sae_lens_store(subject: Subject, dtype: str) -> Callable[[], None]:
    """A run of TOKENS tokens through an ActivationsStore on a copy of the model in `dtype`."""
    import copy

    from datasets import Dataset
    from sae_lens.load_model import HookedProxyLM
    from sae_lens.training.activations_store import ActivationsStore

    model = copy.deepcopy(subject.model).to(getattr(torch, dtype))
    hook = subject.hook_point(LAYER)
    proxy = HookedProxyLM(model, subject.tokenizer, hook_names=[hook])
    rows = Dataset.from_dict({"text": texts()[1] * 2})

    def run() -> None:
        store = ActivationsStore(
            model=proxy, dataset=rows, streaming=False, hook_name=hook, hook_head_index=None, context_size=CONTEXT,
            d_in=subject.d_model, n_batches_in_buffer=4, total_training_tokens=TOKENS, store_batch_size_prompts=BATCH,
            train_batch_size_tokens=BATCH * CONTEXT, prepend_bos=False, normalize_activations="none",
            device=torch.device("cpu"), dtype=dtype,
        )  # fmt: skip
        done = 0
        for _ in range(TOKENS // (BATCH * CONTEXT)):
            done += len(store.get_filtered_llm_batch())
        assert done == TOKENS

    return run


def main() -> None:
    given = arguments(__doc__ or "")
    warnings.filterwarnings("ignore", message="Dataset is not tokenized")
    warnings.filterwarnings("ignore", message="The training dataset contains fewer samples")
    subject = load_subject("smollm2-135m-instruct", dtype="bfloat16")
    place = Path(tempfile.mkdtemp())
    path, rows = texts()
    ids = [i for text in rows for i in subject.tokenize(text)][:TOKENS]
    ids_NT = torch.tensor(ids).view(-1, CONTEXT)
    config = HarvestConfig(text=(str(path),), layers=(LAYER,), tokens=TOKENS, context=CONTEXT, batch_contexts=BATCH)

    def ours() -> None:
        shutil.rmtree(place / "out", ignore_errors=True)
        harvest(subject, config, place / "out")

    def bare() -> None:
        for ids_BT in ids_NT.split(BATCH):
            subject.residuals(ids_BT, [LAYER])

    sides: dict[str, Any] = {
        "saefeat harvest": ours,
        "bare forward": bare,
        "sae-lens bf16": sae_lens_store(subject, "bfloat16"),
        "sae-lens fp32": sae_lens_store(subject, "float32"),
    }
    try:
        seconds = interleave(sides, min(given.rounds, ROUNDS))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    speed = {name: TOKENS / value for name, value in seconds.items()}
    ours_ = speed["saefeat harvest"]
    ratios = {
        "vs_bare": ours_ / speed["bare forward"],
        "vs_saelens": ours_ / speed["sae-lens fp32"],
        "vs_saelens_bf16": ours_ / speed["sae-lens bf16"],
    }
    report("harvest", speed, ratios, as_json=given.json)


if __name__ == "__main__":
    main()
