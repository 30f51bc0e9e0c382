"""The ring buffer: every token once a pass, in memory that does not grow, the same rows as a harvest's."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saefeat.config import HarvestConfig
from saefeat.errors import InputError
from saefeat.harvest import ActivationStore, Fed, Ranks, Stream, harvest
from saefeat.subject import Subject
from tests.tiny import TEXT, tiny_subject

T, CONTEXTS, HELDOUT = 32, 60, 0.1
HALF = 8
"""Contexts a half of the buffer holds in most tests."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> HarvestConfig:
    path = tmp_path_factory.mktemp("stream") / "text.txt"
    path.write_text("\n".join(f"{n} {TEXT} {n * n}" for n in range(20)))
    return HarvestConfig(
        text=(str(path),), layers=(1, 2), tokens=CONTEXTS * T, context=T, batch_contexts=8, shard_contexts=64
    )


def opened(subject: Subject, config: HarvestConfig, *, half: int = HALF, **named: Ranks | bool) -> Stream:
    return Stream(subject, config, buffer_tokens=2 * half * T, **named)


def take(stream: Stream, n: int, batch: int, *, layers: tuple[int, ...] = (1, 2), **named: object) -> list[Fed]:
    feed = stream.feed(layers, batch, **{"seed": 0, "heldout": HELDOUT, **named})  # type: ignore[arg-type]
    try:
        return list(islice(feed, n))
    finally:
        feed.close()  # type: ignore[attr-defined]


def rows(x_ND: Tensor) -> Counter[bytes]:
    return Counter(row.numpy().tobytes() for row in x_ND)


def tokens_of_a_pass(stream: Stream, layer: int) -> Tensor:
    """Every usable row of the training contexts, by plain forward passes in order."""
    stream.prepare()
    n_train = stream.n_contexts - stream.n_heldout(HELDOUT)
    parts = []
    for batch in stream._batched(stream._packed(0, n_train)):
        x = stream._forward(batch)
        parts.append(x[layer][torch.from_numpy(stream._usable(x))])
    return torch.cat(parts)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("half", [3, 8, 100])
@pytest.mark.parametrize("batch", [50, 400])
def test_a_pass_holds_every_usable_token_of_the_training_contexts_once(
    tiny: Subject, config: HarvestConfig, half: int, batch: int, overlap: bool
) -> None:
    stream = opened(tiny, dataclasses.replace(config, batch_contexts=1), half=half, overlap=overlap)
    for layer in (1, 2):
        expected = tokens_of_a_pass(stream, layer)
        n = len(expected)
        got = torch.cat([fed.x[layer] for fed in take(stream, 2 * n // batch, batch)])
        assert rows(got[:n]) == rows(expected) if len(got) >= n else not rows(got) - rows(expected)
        if half == 100:
            assert not torch.equal(got[: len(got) - n], got[n:]), "the second pass has the first one's order"


def test_no_row_leaves_twice_before_its_half_is_filled_again(tiny: Subject, config: HarvestConfig) -> None:
    """Rows leave half by half: those of a half are those of its contexts, however the batches lie."""
    stream = opened(tiny, dataclasses.replace(config, batch_contexts=1))
    expected = tokens_of_a_pass(stream, 1)
    assert len(expected) == 54 * (T - 1), "a sink would shift the halves of this test"
    per_half = expected.split(HALF * (T - 1))
    got = torch.cat([fed.x[1] for fed in take(stream, len(expected) // 9, 9)])
    assert len(per_half) == 7
    at = 0
    for part in per_half:
        assert rows(got[at : at + len(part)]) == rows(part)
        assert not torch.equal(got[at : at + len(part)], part)
        at += len(part)


def test_with_room_for_all_it_is_the_store_vector_by_vector(
    tiny: Subject, config: HarvestConfig, tmp_path: Path
) -> None:
    for layer in (1, 2):
        one = dataclasses.replace(config, layers=(layer,))
        store = ActivationStore(harvest(tiny, one, tmp_path / str(layer)))
        stream = opened(tiny, one, half=100)
        assert torch.equal(
            store.sample(layer, 10_000, 3, heldout=HELDOUT), stream.sample(layer, 10_000, 3, heldout=0.1)
        )
        theirs = list(islice(store.feed((layer,), 77, seed=5, heldout=HELDOUT), 50))  # more than two passes
        ours = take(stream, 50, 77, layers=(layer,), seed=5)
        assert all(torch.equal(a.x[layer], b.x[layer]) for a, b in zip(ours, theirs, strict=True))
        assert stream.sink_norm == store.sink_norm
        held = (list(source.heldout_contexts(layer, HELDOUT)) for source in (store, stream))
        for (ids, x, usable), (ids_2, x_2, usable_2) in zip(*held, strict=True):
            assert torch.equal(ids, ids_2)
            assert torch.equal(usable, usable_2)
            torch.testing.assert_close(x, x_2)


def test_filling_ahead_changes_no_row(tiny: Subject, config: HarvestConfig) -> None:
    in_turn, ahead = (take(opened(tiny, config, overlap=overlap), 90, 70) for overlap in (False, True))
    for a, b in zip(in_turn, ahead, strict=True):
        assert a.position == b.position
        assert all(torch.equal(a.x[layer], b.x[layer]) for layer in (1, 2))


@given(st.integers(0, 60), st.integers(20, 500), st.integers(3, 40))
@settings(max_examples=12, deadline=None)
def test_a_feed_goes_on_from_any_position(
    tiny: Subject, config: HarvestConfig, after: int, batch: int, half: int
) -> None:
    whole = take(opened(tiny, config, half=half), after + 3, batch)
    start = [whole[after - 1].position] if after else None
    later = take(opened(tiny, config, half=half), 3, batch, start=start)
    for a, b in zip(whole[after:], later, strict=True):
        assert a.position == b.position
        assert all(torch.equal(a.x[layer], b.x[layer]) for layer in (1, 2))


@pytest.mark.parametrize("halves", [1, 2])
def test_the_buffer_is_allocated_once_and_is_as_large_as_said(
    tiny: Subject, config: HarvestConfig, caplog: pytest.LogCaptureFixture, halves: int
) -> None:
    stream = opened(tiny, config, overlap=halves == 2)
    with caplog.at_level(logging.INFO, logger="saefeat"):
        stream.prepare()
    before = {layer: rows.data_ptr() for layer, rows in stream._rows.items()}
    assert (
        sum(rows.nbytes for rows in stream._rows.values())
        == stream.buffer_bytes
        == halves * 2 * HALF * (T - 1) * 32 * 4
    )
    assert "buffer of" in caplog.text
    for _ in range(2):
        take(stream, 80, 64)  # three passes
        stream.prepare()
    assert {layer: rows.data_ptr() for layer, rows in stream._rows.items()} == before
    assert {rows.dtype for rows in stream._rows.values()} == {tiny.dtype}


def test_a_sample_is_not_read_again_by_the_feed(tiny: Subject, config: HarvestConfig) -> None:
    plain = take(opened(tiny, config), 20, 64)
    stream = opened(tiny, config)
    stream.sample(1, 100, 0, heldout=HELDOUT)
    stream.sample(2, 100, 0, heldout=HELDOUT)
    calls, forward = [], stream._forward
    stream._forward = lambda batch: calls.append(len(batch)) or forward(batch)  # type: ignore[method-assign]
    feed = stream.feed((1, 2), 64, seed=0, heldout=HELDOUT)
    assert torch.equal(next(feed).x[1], plain[0].x[1])
    feed.close()  # type: ignore[attr-defined]
    assert sum(calls) <= HALF, "the first half was filled again"
    again = take(stream, 20, 64)  # and a later feed is not misled by what lies in the buffer
    assert all(torch.equal(a.x[2], b.x[2]) for a, b in zip(again, plain, strict=True))


def test_sinks_and_first_tokens_never_enter(config: HarvestConfig) -> None:
    subject = tiny_subject(layers=2, seed=1)
    stream = opened(subject, dataclasses.replace(config, layers=(0, 1)))
    counts = Counter(token for context in stream._packed(0, 54) for token in context.ids[1:])
    rare = next(token for token, n in counts.items() if n == 3)
    subject.model.base_model.embed_tokens.weight[rare] *= 400  # as sinks do: a norm far above all others
    x = {layer: torch.cat([fed.x[layer] for fed in take(stream, 26, 64, layers=(0, 1))]) for layer in (0, 1)}
    for layer in (0, 1):
        assert float(x[layer].norm(dim=1).max()) <= stream.sink_norm[layer]
    ids = torch.tensor([context.ids for context in stream._packed(0, 54)])
    every = subject.residuals(ids, [1])[1]
    for kept_out in (every[:, 0], every[ids == rare]):
        assert len(kept_out) >= 3
        assert float(torch.cdist(kept_out, x[1]).min()) > 1e-3


def test_rows_of_all_layers_are_of_the_same_tokens(tiny: Subject, config: HarvestConfig) -> None:
    stream = opened(tiny, dataclasses.replace(config, batch_contexts=1))
    pair = {
        a.numpy().tobytes(): b for a, b in zip(tokens_of_a_pass(stream, 1), tokens_of_a_pass(stream, 2), strict=True)
    }
    for fed in take(stream, 5, 100):
        for a, b in zip(fed.x[1], fed.x[2], strict=True):
            torch.testing.assert_close(pair[a.numpy().tobytes()], b)


def test_its_threads_end_with_it(tiny: Subject, config: HarvestConfig) -> None:
    before = threading.active_count()
    stream = opened(tiny, config, overlap=True)
    for n in (1, 7, 30):
        take(stream, n, 64)
        assert threading.active_count() == before


def test_what_cannot_work_is_refused(tiny: Subject, config: HarvestConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="buffer of 10 tokens is too small; give it at least 64"):
        Stream(tiny, config, buffer_tokens=10)
    (tmp_path / "short.txt").write_text("Too short.")
    with pytest.raises(InputError, match="shorter than one context"):
        opened(tiny, dataclasses.replace(config, text=(str(tmp_path / "short.txt"),))).prepare()
    with pytest.raises(InputError, match="layer 0 is not read"):
        opened(tiny, config).feed((0,), 8, seed=0, heldout=HELDOUT)
    with pytest.raises(InputError, match="begun by 2 processes, not 1"):
        opened(tiny, config).feed((1,), 8, seed=0, heldout=HELDOUT, start=[(0, 0, 0)] * 2)
    with pytest.raises(InputError, match="no layer 7"):
        opened(tiny, dataclasses.replace(config, layers=(7,)))
    many = opened(tiny, config, ranks=Ranks(rank=59, size=60))
    with pytest.raises(InputError, match="fewer contexts than there are processes"):
        many.feed((1,), 60, seed=0, heldout=HELDOUT)


def test_a_text_in_which_no_token_counts_is_said(tiny: Subject, config: HarvestConfig) -> None:
    stream = opened(tiny, config)
    stream.prepare()
    stream.sink_norm = {1: 0.0, 2: 0.0}
    with pytest.raises(InputError, match="no usable token"):
        take(stream, 1, 8)


def test_its_identity_is_of_contents_and_order_not_of_paths(
    tiny: Subject, config: HarvestConfig, tmp_path: Path
) -> None:
    base = opened(tiny, config).identity
    copy = tmp_path / "copy.txt"
    copy.write_bytes(Path(config.text[0]).read_bytes())
    assert opened(tiny, dataclasses.replace(config, text=(str(copy),))).identity == base
    copy.write_text("another text")
    assert opened(tiny, dataclasses.replace(config, text=(str(copy),))).identity != base
    assert opened(tiny, config, half=9).identity != base
    assert opened(tiny, dataclasses.replace(config, seed=1)).identity != base
    assert opened(tiny, config, ranks=Ranks(rank=0, size=2)).identity != base
