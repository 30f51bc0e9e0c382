"""A real atlas of a tiny random model and a made-up crossed corpus, built by the real chain within seconds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from saefeat.atlas import build_atlas
from saefeat.config import FELT, OF_DIALOGUES, STORY, LabelConfig, ReadoutConfig
from saefeat.corpus import load_corpus
from saefeat.label import label
from saefeat.sae import SAE, save_sae
from saefeat.subject import Subject, load_subject
from tests.tiny import tiny_subject

EMOTIONS = {
    "desperate": "The rent was due and the account was empty, she counted the coins again and nobody would answer",
    "joyful": "They danced and sang in the garden, everybody laughed until the sides hurt and the bread was warm",
    "at ease": "The old dog slept beside the stove, the rain was slow and soft and there was nowhere to be",
    "furious": "He slammed the door, kicked the chair and shouted that it was a lie, a lie, a filthy lie",
}
TOPICS = {
    "t01": "at the station, with the train late and the platform full of people and their bags",
    "t02": "in the kitchen, before the meal, while my sister was cutting bread and the phone rang",
    "t03": "at school, in the last week of spring, when the letters were handed out to every class",
}
FEATURES, LAYER = 64, 1


def write_corpus(directory: Path) -> Path:
    """Two stories for each of 4 emotions on each of 3 topics, and a neutral text a topic."""
    directory.mkdir(parents=True)
    (directory / "emotions.txt").write_text("\n".join(EMOTIONS) + "\n", encoding="utf-8")
    stories = [
        {"emotion": emotion, "topic": topic, "text": f"{opening} {what}. It was {place}{end}"}
        for emotion, what in EMOTIONS.items()
        for topic, place in TOPICS.items()
        for opening, end in (("That day.", "."), ("I remember it well:", " and it went on for an hour."))
    ]
    neutral = [
        {"topic": topic, "kind": "narrative", "text": f"The table has four legs. It stood {place}."}
        for topic, place in TOPICS.items()
    ]
    for name, rows in (("stories.jsonl", stories), ("neutral.jsonl", neutral)):
        (directory / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return directory


def write_dialogues(directory: Path) -> Path:
    """Of each topic four dialogues of four turns, every emotion once the user's and once the assistant's, and a flat
    one."""
    directory.mkdir(parents=True)
    names, dialogues, flat = list(EMOTIONS), [], []
    for shift, (topic, place) in enumerate(TOPICS.items(), 1):
        for i, user in enumerate(names):
            assistant = names[(i + shift) % len(names)]
            turns = [f"{EMOTIONS[(user, assistant)[n % 2]]}, {place}, {n}" for n in range(4)]
            dialogues.append({"user": user, "assistant": assistant, "topic": f"d{topic}", "messages": _spoken(turns)})
        said = [f"The table has {n + 3} legs, {place}" for n in range(4)]
        flat.append({"topic": f"d{topic}", "messages": _spoken(said)})
    for name, rows in (("dialogues.jsonl", dialogues), ("neutral.jsonl", flat)):
        (directory / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return directory


def _spoken(turns: Sequence[str]) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(turns)]


def write_model(directory: Path) -> Path:
    """The tiny subject as a HF directory, so that it can be loaded by name in another process."""
    subject = tiny_subject()
    subject.model.save_pretrained(directory)
    subject.tokenizer.save_pretrained(directory)
    return directory


def write_sae(directory: Path, subject: Subject, *, seed: int = 0) -> Path:
    """A random SAE (jumprelu) on layer 1, centred on what the model does on one text, about a tenth active."""
    chance = torch.Generator().manual_seed(seed)
    W_dec_FD = torch.nn.functional.normalize(torch.randn(FEATURES, subject.d_model, generator=chance), dim=1)
    ids = subject.tokenize(" ".join(EMOTIONS.values()))
    x_TD = subject.residuals(torch.tensor([ids]), [LAYER])[LAYER][0, 1:].float()
    norm = float(x_TD.norm(dim=1).median())
    sae = SAE(
        W_enc_DF=W_dec_FD.T.clone(),
        b_enc_F=torch.zeros(FEATURES),
        W_dec_FD=W_dec_FD,
        b_dec_D=x_TD.mean(0),
        threshold_F=torch.full((FEATURES,), 0.15 * norm),
        architecture="jumprelu",
        cfg={
            "apply_b_dec_to_input": True,
            "normalize_activations": "none",
            "metadata": {
                "model_name": "tiny",
                "hook_name": subject.hook_point(LAYER),
                "saefeat": {"format_version": 1, "sink_norm": 5 * norm},
            },
        },
    )
    return save_sae(sae, directory)


def build_tiny_atlas(root: Path, *, name: str = "tiny", dialogues: bool = False) -> Path:
    """Model, corpus, SAE, labels and the atlas `root`/indexes/`name`; returns the atlas. dialogues: with readouts of
    a corpus of them."""
    model = write_model(root / "model")
    subject = load_subject(str(model), device="cpu", dtype="float32")
    corpus = load_corpus(write_corpus(root / "stories"))
    sae = write_sae(root / "sae", subject)
    readouts: tuple[ReadoutConfig, ...] = (STORY, FELT)
    if dialogues:
        own = (str(write_dialogues(root / "dialogues")),)
        readouts = (*(replace(one, also=(), dialogues=own) for one in OF_DIALOGUES), STORY)
    config = LabelConfig(stories=str(root / "stories"), readouts=readouts)
    labels = label(subject, [sae], corpus, config, root / "labels")
    return build_atlas(labels, [sae], root / "indexes" / name, subject=subject, name=name)
