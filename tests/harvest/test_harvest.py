"""Harvesting: what lands on disk, what it refuses, and that no kill or full disk changes the result."""

from __future__ import annotations

import dataclasses
import json
import resource
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from saefeat.config import HarvestConfig
from saefeat.errors import Busy, FormatError, InputError
from saefeat.files import directory_lock
from saefeat.harvest import ActivationStore, harvest
from saefeat.subject import Subject
from tests.tiny import tiny_model, tiny_subject, tiny_tokenizer

ROOT = Path(__file__).parents[2]
STORIES = str(ROOT / "corpora" / "stories" / "t01_letter.jsonl")
CONFIG = HarvestConfig(text=(STORIES,), layers=(0, 2), tokens=6_400, context=32, batch_contexts=7, shard_contexts=48)


def contents(out: Path) -> dict[str, np.ndarray]:
    """Every dataset of every shard, and which files there are."""
    found: dict[str, np.ndarray] = {}
    for path in sorted(out.iterdir()):
        if path.suffix == ".h5":
            with h5py.File(path) as file:
                file.visititems(
                    lambda name, item, path=path: (
                        found.update({f"{path.name}/{name}": item[()]}) if isinstance(item, h5py.Dataset) else None
                    )
                )
        elif path.name not in (".lock", "manifest.json"):
            found[path.name] = np.zeros(0)
    return found


def assert_same(a: Path, b: Path) -> None:
    one, two = contents(a), contents(b)
    assert one.keys() == two.keys()
    for name in one:
        assert np.array_equal(one[name], two[name]), name
    timing = ("seconds", "tokens_per_second")
    manifests = [json.loads((out / "manifest.json").read_text()) for out in (a, b)]
    first, second = ({k: v for k, v in manifest.items() if k not in timing} for manifest in manifests)
    assert first == second


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny: Subject) -> Path:
    return harvest(tiny, CONFIG, tmp_path_factory.mktemp("whole") / "out")


def test_what_is_stored_is_what_the_model_computes(whole: Path, tiny: Subject) -> None:
    store = ActivationStore(whole)
    assert (store.n_contexts, store.context, store.d_model, store.layers) == (200, 32, 32, (0, 2))
    assert [shard["contexts"] for shard in store.manifest["shards"]] == [48, 48, 48, 48, 8]
    assert store.fingerprint == tiny.fingerprint.to_dict()
    for name, items in contents(whole).items():
        if name.endswith("/ids"):
            x = tiny.residuals(torch.from_numpy(items).long(), CONFIG.layers)
            for layer in CONFIG.layers:
                stored = torch.from_numpy(contents(whole)[name.replace("ids", f"layer_{layer}/x")])
                assert torch.allclose(stored, x[layer], atol=1e-4)


def test_first_tokens_and_sinks_are_not_usable(whole: Path) -> None:
    store, data = ActivationStore(whole), contents(whole)
    norms = np.concatenate([np.linalg.norm(data[n], axis=-1) for n in sorted(data) if n.endswith("layer_2/x")])
    usable = np.concatenate([data[n] for n in sorted(data) if n.endswith("layer_2/usable")])
    assert store.median_norm[2] == pytest.approx(np.median(norms[:48, 1:]), rel=1e-5)  # the first shard has 48
    assert store.sink_norm[2] == pytest.approx(5 * store.median_norm[2])
    expected = norms <= store.sink_norm[2]
    expected[:, 0] = False
    assert np.array_equal(usable, expected)
    assert store.n_usable(2) == expected.sum()


def test_a_planted_sink_is_dropped(tmp_path: Path) -> None:
    subject = tiny_subject(layers=2, seed=1)
    rare = 300
    subject.model.base_model.embed_tokens.weight[rare] *= 400  # as sinks do: a norm far above all others
    store = ActivationStore(harvest(subject, dataclasses.replace(CONFIG, layers=(1,)), tmp_path))
    ids = torch.cat([ids for ids, _, _ in store.heldout_contexts(1, 0.99)])
    usable = torch.cat([usable for _, _, usable in store.heldout_contexts(1, 0.99)])
    assert (ids[:, 1:] == rare).any(), "the planted token does not occur"
    assert not usable[ids == rare].any()
    assert usable.float().mean() > 0.9


def test_document_starts_point_at_documents(whole: Path, tiny: Subject) -> None:
    data = contents(whole)
    texts = [json.loads(line)["text"] for line in Path(STORIES).read_text(encoding="utf-8").splitlines()]
    ids, starts = data["shard_00000.h5/ids"], data["shard_00000.h5/starts"]
    assert len(starts) > 3
    for _, context, position in starts:
        begin = "".join(tiny.token_strings(ids[context, position:].tolist()))[:4]
        assert any(text.startswith(begin) for text in texts)


def test_bfloat16_is_kept_bit_by_bit(tmp_path: Path) -> None:
    model = tiny_model("llama", layers=2, d_model=32, vocab=512, context=128, seed=0).bfloat16()
    subject = Subject("tiny-bf16", model, tiny_tokenizer())
    out = harvest(subject, dataclasses.replace(CONFIG, layers=(1,), batch_contexts=8), tmp_path)
    with h5py.File(out / "shard_00000.h5") as file:
        assert file["layer_1/x"].dtype == np.uint16
        assert file["layer_1/x"].attrs["dtype"] == "bfloat16"
        assert file["layer_1/x"].fletcher32
        assert file["layer_1"].attrs["hook_point"] == "model.layers.1"
    store = ActivationStore(out)
    assert store.dtype == torch.bfloat16
    ids, x, _ = next(store.heldout_contexts(1, 0.99))
    assert torch.equal(x, subject.residuals(ids, [1])[1])


def test_a_finished_harvest_is_left_alone(whole: Path, tiny: Subject) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in whole.iterdir()}
    moved = dataclasses.replace(CONFIG, batch_contexts=3)
    assert harvest(tiny, moved, whole) == whole
    assert {path.name: path.stat().st_mtime_ns for path in whole.iterdir()} == before


def test_another_harvest_in_the_same_place_is_refused(whole: Path, tiny: Subject, tmp_path: Path) -> None:
    def refused(subject: Subject, config: HarvestConfig, message: str) -> None:
        with pytest.raises(InputError, match=message):
            harvest(subject, config, whole)

    refused(tiny, dataclasses.replace(CONFIG, seed=1), "seed = 0, not 1")
    refused(tiny, dataclasses.replace(CONFIG, layers=(0,)), r"layers = \[0, 2\], not \[0\]")
    refused(tiny_subject(seed=1), CONFIG, "another model")
    other = tmp_path / "t01_letter.jsonl"
    other.write_text('{"text": "something else"}')
    refused(tiny, dataclasses.replace(CONFIG, text=(str(other),)), "another text")


def test_settings_that_cannot_work_are_refused(tiny: Subject, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("Too short.")
    for change, message in [
        ({"layers": ()}, "no layer"),
        ({"layers": (3,)}, "no layer 3"),
        ({"context": 1024}, "at most 512"),
        ({"text": ()}, "no text"),
        ({"text": (str(tmp_path / "short.txt"),)}, "shorter than one context"),
        ({"tokens": 10**15}, "GB of disk"),
    ]:
        with pytest.raises(InputError, match=message):
            harvest(tiny, dataclasses.replace(CONFIG, **change), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.h5"))


def test_when_the_text_ends_early_what_there_is_is_kept(tiny: Subject, tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("The rent was due and the account was empty. " * 60)
    config = dataclasses.replace(CONFIG, text=(str(text),), shard_contexts=7)
    store = ActivationStore(harvest(tiny, config, tmp_path / "out"))
    whole_contexts = len(tiny.tokenize(text.read_text().strip())) // 32
    assert store.n_contexts == whole_contexts
    assert store.manifest["finished"]


@pytest.mark.parametrize("text_ends", [False, True])
def test_a_kill_between_the_last_shard_and_the_end_is_made_good(
    tiny: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text_ends: bool
) -> None:
    """All shards are listed, the last one short, and only the word that the harvest is finished is missing."""
    text = tmp_path / "a.txt"
    text.write_text("The rent was due and the account was empty. " * 60)
    config = dataclasses.replace(CONFIG, shard_contexts=7, tokens=32 * (1000 if text_ends else 10), text=(str(text),))
    whole = harvest(tiny, config, tmp_path / "whole")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("saefeat.harvest.write._end", die)
        with pytest.raises(KeyboardInterrupt):
            harvest(tiny, config, tmp_path / "out")
    told = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert told["contexts"] % 7
    assert not told["finished"]
    assert_same(harvest(tiny, config, tmp_path / "out"), whole)


def test_a_second_writer_is_turned_away(tiny: Subject, tmp_path: Path) -> None:
    with directory_lock(tmp_path), pytest.raises(Busy, match="pid"):
        harvest(tiny, CONFIG, tmp_path)


def test_progress_rises_to_the_end(tiny: Subject, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    harvest(tiny, CONFIG, tmp_path, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (6_400, 6_400)


# ---------------------------------------------------------------- faults
KILLER = """
import os, random, signal, sys, json
import torch
torch.set_num_threads(1)
from pathlib import Path
from saefeat.config import HarvestConfig, from_dict
from saefeat.harvest import harvest
from tests.tiny import tiny_subject
import h5py, saefeat.harvest.write  # loaded once; the children are forks
config, subject, chance = from_dict(HarvestConfig, json.loads(sys.argv[2])), tiny_subject(), random.Random(1)
left = [0]

def deadly(function):
    def call(*args, **kwargs):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call

told = []
for round in range(2):
    out, shards = Path(sys.argv[1]) / str(round), []
    for turn in range(100):
        left[0] = chance.randrange(1, 16)
        child = os.fork()
        if not child:
            subject.residuals, os.fsync, os.replace = map(deadly, (subject.residuals, os.fsync, os.replace))
            harvest(subject, config, out)
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            break
        shards.append(len(list(out.glob("shard_*.h5"))))
    told.append(shards)
print(json.dumps(told))
"""
"""Killed before some forward pass, or before something is written through or gets its name."""


def test_a_harvest_killed_again_and_again_equals_an_undisturbed_one(whole: Path, tiny: Subject, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLER, str(tmp_path), json.dumps(dataclasses.asdict(CONFIG))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    shards_at_kills = json.loads(done.stdout)
    assert sum(map(len, shards_at_kills)) >= 4
    assert len({n for shards in shards_at_kills for n in shards}) >= 3, "kills did not fall at different stages"
    for number in range(len(shards_at_kills)):
        harvest(tiny, CONFIG, tmp_path / str(number))
        assert_same(tmp_path / str(number), whole)


def test_a_disk_that_fills_up_is_the_users_error_and_the_harvest_goes_on_later(
    whole: Path, tiny: Subject, tmp_path: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    out = tmp_path / "out"
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))  # a shard takes about 400 kB
    try:
        with pytest.raises(InputError, match="cannot"):
            harvest(tiny, CONFIG, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in out.iterdir() if path.name != ".lock"] == []
    harvest(tiny, CONFIG, out)
    assert_same(out, whole)


def test_a_lost_shard_is_said(tiny: Subject, tmp_path: Path) -> None:
    out = harvest(tiny, CONFIG, tmp_path)
    (out / "shard_00001.h5").unlink()
    with pytest.raises(InputError, match=r"lost its file shard_00001\.h5"):
        harvest(tiny, CONFIG, out)
    with pytest.raises(FormatError, match=r"shard_00001\.h5"):
        next(ActivationStore(out).batches(0, 8, seed=0))
