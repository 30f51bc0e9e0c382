"""Several processes give what one gives: in the step, in a harvest, in training from disk and from the model."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from saefeat.config import HarvestConfig, TrainConfig
from saefeat.errors import InputError
from saefeat.harvest import ALONE, ActivationStore, Fed, Ranks, Stream, harvest
from saefeat.sae import train
from saefeat.sae.step import Params, batch_top_k, step, summed
from tests.forks import dying, script, together
from tests.harvest.test_harvest import assert_same
from tests.tiny import TEXT, tiny_subject

CONFIG = TrainConfig(
    features=64, k=6, tokens=256 * 40, batch=256, checkpoint_every=10, dead_after=3_000, lr=2e-3, threshold_lr=0.05
)
D, F, N, K = 12, 40, 64, 5


def reading(folder: Path) -> HarvestConfig:
    return HarvestConfig(
        text=(str(folder / "text.txt"),), layers=(1,), tokens=6_400, context=32, batch_contexts=8, shard_contexts=24
    )


# ---------------------------------------------------------------- the work, each in forks of one process
def everything(where: str) -> None:
    """Run every scenario once; the tests below look at what it left."""
    folder = Path(where)
    (folder / "text.txt").write_text("\n".join(f"{n} {TEXT} {n * n}" for n in range(60)))
    subject = tiny_subject()
    codes = {"step": together(2, lambda ranks: parted_step(folder, ranks))}

    import saefeat.harvest.write as write

    loop = sys.modules["saefeat.sae.train"]  # the room offers a function of that name

    harvest(subject, reading(folder), folder / "one")
    codes["harvest"] = together(2, lambda ranks: harvest(subject, reading(folder), folder / "two", ranks=ranks))

    def stopped(ranks: Ranks) -> None:
        if ranks.rank == 1:
            write._write_shard = dying(write._write_shard, after=1)
        harvest(subject, reading(folder), folder / "killed", ranks=ranks)

    codes["harvest killed"] = together(2, stopped)
    codes["shards"] = [len(list((folder / "killed").glob("*.h5")))]
    codes["harvest again"] = together(
        3, lambda ranks: harvest(subject, reading(folder), folder / "killed", ranks=ranks)
    )

    train(ActivationStore(folder / "one"), CONFIG, folder / "sae_one")
    codes["train"] = together(2, lambda ranks: from_store(folder, "sae_two", ranks))

    def struck(ranks: Ranks) -> None:
        if ranks.rank == 1:
            loop.descend = dying(loop.descend, after=27)
        from_store(folder, "sae_killed", ranks)

    codes["train killed"] = together(2, struck)
    codes["train again"] = together(2, lambda ranks: from_store(folder, "sae_killed", ranks))

    train(Both(folder), CONFIG, folder / "stream_one")
    codes["stream"] = together(2, lambda ranks: train(stream(folder, subject, ranks), CONFIG, folder / "stream_two"))

    def failing(ranks: Ranks) -> None:
        if ranks.rank == 1:
            raise InputError("this one is at fault")
        from_store(folder, "sae_failed", ranks)

    codes["failed"] = together(2, failing)
    (folder / "codes.json").write_text(json.dumps(codes))


def from_store(folder: Path, name: str, ranks: Ranks) -> None:
    train(ActivationStore(folder / "one", ranks=ranks), CONFIG, folder / name)


def stream(folder: Path, subject: object, ranks: Ranks) -> Stream:
    return Stream(subject, reading(folder), buffer_tokens=64 * 32, ranks=ranks)


class Both:
    """One process that is fed what two are fed: the parts of every batch joined."""

    def __init__(self, folder: Path) -> None:
        self.parts = [stream(folder, tiny_subject(), Ranks(rank=rank, size=2)) for rank in range(2)]
        self.ranks = ALONE

    def __getattr__(self, name: str) -> object:
        return getattr(self.parts[0], name)

    def feed(self, layers: tuple[int, ...], batch: int, **named: object) -> Iterator[Fed]:
        feeds = [part.feed(layers, batch, **named) for part in self.parts]
        for one, two in zip(*feeds, strict=True):
            yield Fed({layer: torch.cat([one.x[layer], two.x[layer]]) for layer in layers}, one.position)


def problem() -> tuple[Params, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights, a batch, which features are dead, and pre-activations with many ties, all in one process's half."""
    g = torch.Generator().manual_seed(0)
    W_FD = torch.randn(F, D, generator=g) * 0.3
    params = Params(W_FD, torch.randn(F, generator=g) * 0.3, W_FD.flip(0) * 1.5, torch.randn(D, generator=g))
    pre_NF = torch.randn(N, F, generator=g)
    pre_NF[: N // 2] = (pre_NF[: N // 2] * 2).round() * 3
    return params, torch.randn(N, D, generator=g), torch.arange(F) < 9, pre_NF


def parted_step(folder: Path, ranks: Ranks) -> None:
    params, x_ND, dead_F, pre_NF = problem()
    mine = slice(ranks.rank * N // ranks.size, (ranks.rank + 1) * N // ranks.size)
    named = {"widths": (10, F), "dead_F": dead_F, "aux_coefficient": 0.5}
    result = summed(step(params, x_ND[mine], K, ranks=ranks, **named), ranks)
    tensors = dict(zip(Params._fields, result.gradients, strict=True))
    tensors |= {"loss": result.loss, "mse": result.mse, "aux": result.aux, "fires": result.fires_F}
    tensors["smallest"] = torch.tensor(result.smallest, dtype=torch.float64)
    for total in (1, 7, 100, 500, 2_000, N * F):
        kept = batch_top_k(pre_NF[mine], torch.eye(F), torch.zeros(F), torch.ones(F), total, ranks)
        smallest = torch.full_like(kept.h_A, kept.smallest)
        tensors[f"kept {total}"] = torch.stack([kept.row_A + mine.start, kept.column_A, kept.h_A, smallest])
    save_file(tensors, folder / f"step_{ranks.rank}.safetensors")


# ---------------------------------------------------------------- what came of it
@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    done = script("tests.sae.test_distributed", "everything", folder)
    (folder / "stderr").write_text(done.stderr)
    return folder


@pytest.fixture(scope="module")
def codes(folder: Path) -> dict[str, list[int]]:
    return json.loads((folder / "codes.json").read_text())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value.float() for name, value in load_file(folder / "sae_weights.safetensors").items()}


def test_two_parts_of_a_step_are_the_step(folder: Path, codes: dict[str, list[int]]) -> None:
    assert codes["step"] == [0, 0]
    params, x_ND, dead_F, _ = problem()
    whole = step(params, x_ND, K, widths=(10, F), dead_F=dead_F, aux_coefficient=0.5)
    for rank in range(2):
        parted = load_file(folder / f"step_{rank}.safetensors")
        for name, gradient in zip(Params._fields, whole.gradients, strict=True):
            torch.testing.assert_close(parted[name], gradient, rtol=1e-5, atol=1e-6)
        for name in ("loss", "mse", "aux"):
            torch.testing.assert_close(parted[name], getattr(whole, name), rtol=1e-5, atol=0)
        assert torch.equal(parted["fires"], whole.fires_F)
        assert float(parted["smallest"]) == pytest.approx(whole.smallest, rel=1e-6)


@pytest.mark.parametrize("total", [1, 7, 100, 500, 2_000, N * F])
def test_the_largest_of_a_batch_are_found_without_gathering_it(folder: Path, total: int) -> None:
    """Ties at the cut stay in both processes, also when one of them holds nearly all that stays."""
    pre_NF = problem()[3]
    whole = batch_top_k(pre_NF, torch.eye(F), torch.zeros(F), torch.ones(F), total)
    parts = [load_file(folder / f"step_{rank}.safetensors")[f"kept {total}"] for rank in range(2)]
    both = torch.cat(parts, dim=1)
    row_A, column_A, h_A, smallest_A = both[:, both[1].argsort(stable=True)]
    assert torch.equal(row_A.long(), whole.row_A)
    assert torch.equal(column_A.long(), whole.column_A)
    assert torch.equal(h_A, whole.h_A)
    assert set(smallest_A.tolist()) == {whole.smallest}


def test_two_processes_leave_the_harvest_of_one(folder: Path, codes: dict[str, list[int]]) -> None:
    assert codes["harvest"] == [0, 0]
    assert_same(folder / "two", folder / "one")


def test_a_harvest_one_of_whose_processes_was_killed_goes_on_with_any_number(
    folder: Path, codes: dict[str, list[int]]
) -> None:
    assert codes["harvest killed"][1] == -9
    assert codes["harvest killed"][0] not in (0, -9), "the other process did not notice"
    assert 0 < codes["shards"][0] < 9
    assert codes["harvest again"] == [0, 0, 0]
    assert_same(folder / "killed", folder / "one")


def test_two_processes_train_what_one_trains_on_the_same_batches(folder: Path, codes: dict[str, list[int]]) -> None:
    assert codes["train"] == [0, 0]
    for kind in ("sae", "stream"):
        one, two = weights(folder / f"{kind}_one"), weights(folder / f"{kind}_two")
        for name in one:
            torch.testing.assert_close(two[name], one[name], rtol=2e-2, atol=2e-3, msg=lambda m, k=kind: f"{k}: {m}")
        last = [(folder / f"{kind}_{n}" / "metrics.jsonl").read_text().splitlines()[-1] for n in ("one", "two")]
        for (name, a), b in zip(json.loads(last[0]).items(), json.loads(last[1]).values(), strict=True):
            assert name == "tok_per_s" or a == pytest.approx(b, rel=1e-2, abs=1e-3), (kind, name)


def test_a_run_one_of_whose_processes_was_killed_ends_as_if_undisturbed(
    folder: Path, codes: dict[str, list[int]]
) -> None:
    assert codes["train killed"][1] == -9
    assert codes["train killed"][0] not in (0, -9)
    assert codes["train again"] == [0, 0]
    assert (folder / "sae_killed" / "sae_weights.safetensors").read_bytes() == (
        folder / "sae_two" / "sae_weights.safetensors"
    ).read_bytes()
    assert not (folder / "sae_killed.training").exists()


def test_an_error_of_one_process_ends_all_with_one_message(folder: Path, codes: dict[str, list[int]]) -> None:
    assert codes["failed"] == [2, 2]
    told = [line for line in (folder / "stderr").read_text().splitlines() if "at fault" in line]
    assert told == ["saefeat: this one is at fault"]
    others = [line for line in (folder / "stderr").read_text().splitlines() if line.startswith("saefeat:")]
    assert len([line for line in others if "another process of this run ended" in line]) == 2, "one for each kill"
    assert len(others) == 3
    assert not (folder / "sae_failed").exists()


def test_a_batch_that_cannot_be_shared_is_refused(folder: Path) -> None:
    store = ActivationStore(folder / "one", ranks=Ranks(rank=1, size=3))
    with pytest.raises(InputError, match="cannot be shared equally by 3"):
        next(store.feed((1,), 256, seed=0, heldout=0.02))


def test_processes_read_every_context_of_a_stream_once(folder: Path) -> None:
    subject = tiny_subject()
    parts = [stream(folder, subject, Ranks(rank=rank, size=3)) for rank in range(3)]
    for part in parts:
        part.prepare()
    every = [context.ids for part in parts for context in part._mine(0, 190)]
    alone = [context.ids for context in stream(folder, subject, ALONE)._mine(0, 190)]
    assert sorted(every) == sorted(alone)
    assert len(alone) == 190
    assert np.ptp([sum(1 for _ in part._mine(0, 190)) for part in parts]) <= 1
