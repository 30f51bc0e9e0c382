"""Reading activations back: every usable token once an epoch, in an order that can be entered anywhere."""

from __future__ import annotations

import json
import shutil
import threading
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from saefeat.config import HarvestConfig
from saefeat.errors import FormatError, InputError
from saefeat.harvest import ActivationStore, harvest
from saefeat.harvest import store as store_module
from saefeat.subject import Subject

STORIES = str(Path(__file__).parents[2] / "corpora" / "stories" / "t02_meal.jsonl")
CONFIG = HarvestConfig(text=(STORIES,), layers=(1, 2), tokens=3_200, context=32, shard_contexts=30)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, tiny: Subject) -> Path:
    return harvest(tiny, CONFIG, tmp_path_factory.mktemp("store"))


@pytest.fixture
def store(out: Path, monkeypatch: pytest.MonkeyPatch) -> ActivationStore:
    monkeypatch.setattr(store_module, "POOL_TOKENS", 10 * 32)  # ten contexts a pool: an epoch is ten pools
    return ActivationStore(out)


def take(store: ActivationStore, n: int, batch: int = 50, **options: int | float) -> list[Tensor]:
    stream = store.batches(2, batch, **{"seed": 0, **options})  # type: ignore[arg-type]
    try:
        return list(islice(stream, n))
    finally:
        stream.close()  # type: ignore[attr-defined]


def rows(x_ND: Tensor) -> list[bytes]:
    return sorted(row.numpy().tobytes() for row in x_ND)


def usable_rows(store: ActivationStore, first: int, last: int) -> Tensor:
    every = list(store.heldout_contexts(2, 0.99, batch_contexts=1))  # all contexts but the first
    assert len(every) == 99
    return torch.cat([x_NTD[usable_NT] for _, x_NTD, usable_NT in every[first - 1 : last - 1]])


def test_an_epoch_holds_every_usable_token_of_the_training_split_once(store: ActivationStore) -> None:
    n_train = 100 - store.n_heldout(0.1)
    first = ActivationStore(store.directory)._read(store_module.Shards(store._files), 2, np.arange(1), store._usable(2))
    expected = torch.cat([first, usable_rows(store, 1, n_train)])
    n = len(expected)
    stream = torch.cat(take(store, 2 * n // 30, batch=30, heldout=0.1))
    assert rows(stream[:n]) == rows(expected)
    again = stream[n : 2 * n]
    assert not torch.equal(stream[: len(again)], again), "the second epoch has the first one's order"
    assert set(rows(again)) <= set(rows(expected))


def test_the_same_seed_gives_the_same_order_and_another_seed_another(store: ActivationStore) -> None:
    a, b, c = (torch.cat(take(store, 20, seed=seed)) for seed in (3, 3, 4))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("start", [1, 6, 7, 13, 62, 63, 131])
@pytest.mark.parametrize("batch", [50, 700])
def test_starting_later_equals_having_read_up_to_there(store: ActivationStore, start: int, batch: int) -> None:
    whole = take(store, start + 3, batch=batch, heldout=0.05)
    later = take(store, 3, batch=batch, heldout=0.05, start=start)
    assert all(torch.equal(a, b) for a, b in zip(whole[start:], later, strict=True))


def test_a_batch_mixes_many_contexts(store: ActivationStore) -> None:
    owner = {
        row.numpy().tobytes(): number
        for number, (_, x_NTD, usable_NT) in enumerate(store.heldout_contexts(2, 0.99, batch_contexts=1))
        for row in x_NTD[usable_NT]
    }
    batch = take(store, 1, batch=100)[0]
    assert len({owner.get(row.numpy().tobytes()) for row in batch}) >= 8


def test_held_out_contexts_are_the_last_ones_and_never_in_batches(store: ActivationStore) -> None:
    held = list(store.heldout_contexts(2, 0.1, batch_contexts=4))
    assert [len(ids) for ids, _, _ in held] == [4, 4, 2]
    kept = set(rows(torch.cat([x[usable] for _, x, usable in held])))
    trained = set(rows(torch.cat(take(store, 80, heldout=0.1))))
    kept -= set(rows(usable_rows(store, 1, 90)))  # contexts that begin alike have a few equal rows
    assert len(kept) > 200
    assert not kept & trained
    assert not kept & set(rows(store.sample(2, 10_000, 0, heldout=0.1)))


def test_a_sample_is_random_reproducible_and_without_repeats(store: ActivationStore) -> None:
    x_ND = store.sample(2, 300, 5)
    assert x_ND.shape == (300, 32)
    assert torch.equal(x_ND, store.sample(2, 300, 5))
    assert not torch.equal(x_ND, store.sample(2, 300, 6))
    assert len(store.sample(2, 10**6, 0)) == store.n_usable(2)


def test_readers_end_their_threads(store: ActivationStore) -> None:
    before = threading.active_count()
    take(store, 3)
    assert threading.active_count() == before


def test_a_layer_that_was_not_harvested_is_refused(store: ActivationStore) -> None:
    with pytest.raises(InputError, match="layer 0 was not harvested"):
        store.batches(0, 10, seed=0)


@pytest.mark.parametrize("fault", ["flip", "cut", "junk", "empty"])
def test_a_corrupt_shard_is_noticed_never_returned(out: Path, tmp_path: Path, fault: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    path = copy / "shard_00001.h5"
    raw = bytearray(path.read_bytes())
    if fault == "flip":  # one bit of one context's stream
        x_TD = next(iter(ActivationStore(out).heldout_contexts(2, 0.65)))[1][0].numpy().tobytes()
        at = bytes(raw).find(x_TD[:64])
        assert at > 0
        raw[at + 5] ^= 1
    elif fault == "cut":
        raw = raw[: len(raw) // 2]
    else:
        raw = bytearray(b"junk" * 1000 if fault == "junk" else b"")
    path.write_bytes(raw)
    with pytest.raises(FormatError, match=r"shard_00001\.h5"):
        for _ in islice(ActivationStore(copy).batches(2, 50, seed=0), 80):
            pass


def test_manifests_of_other_kinds_and_newer_versions_are_refused(out: Path, tmp_path: Path) -> None:
    manifest = json.loads((out / "manifest.json").read_text())
    for change, message in [
        ({"format": "atlas"}, "not the manifest"),
        ({"format_version": 2}, "upgrade"),
        ({"shards": []}, "no finished shard"),
        ({"subject": {}}, "incomplete"),
    ]:
        (tmp_path / "manifest.json").write_text(json.dumps(manifest | change))
        with pytest.raises(FormatError, match=message):
            ActivationStore(tmp_path)
    with pytest.raises(FormatError, match="no activations here"):
        ActivationStore(tmp_path / "nowhere")
