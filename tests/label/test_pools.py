"""Pools against a text-by-text twin: windows, prefix, sinks, continuations; and independence of the batch."""

import numpy as np
import pytest
import torch

from saefeat.config import FELT, STORY, ReadoutConfig
from saefeat.errors import InputError
from saefeat.label import pool_texts, pool_tokens
from saefeat.subject import Subject
from tests.tiny import tiny_subject

TEXTS = [
    "The rent was due and the account was empty.",
    "He laughed.",
    "Nothing happened for days, and then everything did: the phone rang, the train was late, the light went out, "
    "and we were home before the storm. She counted the coins again, slowly, and the wind would not stop.",
    "My sister made bread, the children sang in the garden.",
]


class Relu:
    """A random dictionary with the attributes of an SAE."""

    def __init__(self, layer: int, n_features: int = 24, sink_norm: float | None = None, seed: int = 0) -> None:
        self.layer, self.n_features, self.sink_norm = layer, n_features, sink_norm
        self.W_DF = torch.randn(32, n_features, generator=torch.Generator().manual_seed(seed))

    def encode(self, x_ND: torch.Tensor) -> torch.Tensor:
        return torch.relu(x_ND.float() @ self.W_DF - 0.1)


def one_text(subject: Subject, text: str, readout: ReadoutConfig, sae: Relu, window: int) -> np.ndarray:
    """The slow, obvious twin: one window at a time, one token at a time."""
    prefix, ids = list(subject.prefix_ids), subject.tokenize(text)
    room = window - len(prefix)
    if readout.pool == "last":
        tail = subject.tokenize(readout.continuation)
        whole = prefix + ids[-(room - len(tail)) :] + tail
        x_TD = subject.residuals(torch.tensor([whole]), [sae.layer])[sae.layer][0]
        return sae.encode(x_TD[-1:])[0].numpy() ** readout.power
    kept = []
    for start in range(0, len(ids), room):
        whole = prefix + ids[start : start + room]
        x_TD = subject.residuals(torch.tensor([whole]), [sae.layer])[sae.layer][0]
        for t in range(max(1, len(prefix)), len(whole)):
            if sae.sink_norm is None or x_TD[t].norm() <= sae.sink_norm:
                kept.append(sae.encode(x_TD[t : t + 1])[0].numpy())
    return np.mean(kept, axis=0) ** readout.power


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("window", [16, 40, 512])
def test_pools_equal_the_slow_twin(bos: bool, window: int) -> None:
    subject = tiny_subject(bos=bos)
    norms = subject.residuals(torch.tensor([subject.tokenize(TEXTS[2])]), [1])[1][0].norm(dim=-1)
    sink_norm = float(norms.quantile(0.8))  # some tokens are sinks
    saes = {"story": Relu(1, sink_norm=sink_norm), "felt": Relu(2, seed=1), "deep": Relu(2, seed=2)}
    readouts = [STORY, FELT, ReadoutConfig(name="deep", pool="mean", power=1.0)]
    if window == 16:  # too narrow for the continuation of the tiny tokenizer
        readouts = [STORY, ReadoutConfig(name="felt", pool="last", continuation=" so"), readouts[2]]
    pools = pool_texts(subject, TEXTS, readouts, saes, window=window, batch_tokens=70)
    for readout in readouts:
        for n, text in enumerate(TEXTS):
            expected = one_text(subject, text, readout, saes[readout.name], window)
            np.testing.assert_allclose(pools.features[readout.name][n], expected, rtol=1e-3, atol=1e-5)
    assert pools.n_tokens_N.tolist() == [len(subject.tokenize(text)) for text in TEXTS]
    room = window - len(subject.prefix_ids)
    assert pools.n_windows_N.tolist() == [-(-len(subject.tokenize(text)) // room) for text in TEXTS]


def test_a_text_does_not_depend_on_the_others(tiny: Subject) -> None:
    saes = {"story": Relu(1), "felt": Relu(2)}
    together = pool_texts(tiny, TEXTS, [STORY, FELT], saes, batch_tokens=1000)
    for n, text in enumerate(TEXTS):
        alone = pool_texts(tiny, [text], [STORY, FELT], saes)
        for name in saes:
            np.testing.assert_allclose(alone.features[name][0], together.features[name][n], rtol=1e-4, atol=1e-5)


def test_both_readouts_share_one_pass(tiny: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    real = type(tiny).residuals
    monkeypatch.setattr(
        type(tiny), "residuals", lambda self, ids, *a, **k: rows.append(len(ids)) or real(self, ids, *a)
    )
    pool_texts(tiny, TEXTS, [STORY, FELT], {"story": Relu(1), "felt": Relu(2)})
    assert sum(rows) == len(TEXTS)


def test_dense_streams_density_and_progress(tiny: Subject) -> None:
    told: list[tuple[int, int]] = []
    sae = Relu(1)
    pools = pool_texts(
        tiny, TEXTS[:1], [STORY], {"story": sae}, dense=True, on_progress=lambda *count: told.append(count)
    )
    x_TD = tiny.residuals(torch.tensor([tiny.tokenize(TEXTS[0])]), [1])[1][0, 1:]
    np.testing.assert_allclose(pools.dense["story"][0], x_TD.mean(0).numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(pools.density["story"], (sae.encode(x_TD) > 0).float().mean(0).numpy(), atol=1e-6)
    assert told[-1][0] == told[-1][1] > 0


def test_tokens_of_a_text_average_to_its_pool(tiny: Subject) -> None:
    sae = Relu(1)
    for window in (40, 512):
        ids, acts_TF, usable_T = pool_tokens(tiny, TEXTS[2], STORY, sae, window=window)
        pooled = pool_texts(tiny, TEXTS[2:3], [STORY], {"story": sae}, window=window).features["story"][0]
        assert ids == tiny.tokenize(TEXTS[2])
        np.testing.assert_allclose(acts_TF[usable_T].mean(0) ** 0.5, pooled, rtol=1e-3, atol=1e-4)
    ids, acts_TF, usable_T = pool_tokens(tiny, TEXTS[0], FELT, sae)
    assert usable_T.sum() == 1
    assert usable_T[-1]
    pooled = pool_texts(tiny, TEXTS[:1], [FELT], {"felt": sae}).features["felt"][0]
    np.testing.assert_allclose(acts_TF[-1] ** 0.5, pooled, rtol=1e-3, atol=1e-4)


def test_empty_texts_and_long_continuations_are_refused(tiny: Subject) -> None:
    with pytest.raises(InputError, match=r"text 2.*empty"):
        pool_texts(tiny, ["a", ""], [STORY], {"story": Relu(1)})
    with pytest.raises(InputError, match="no room"):
        pool_texts(tiny, ["a"], [FELT], {"felt": Relu(1)}, window=5)
    with pytest.raises(InputError, match="no layer 9"):
        pool_texts(tiny, ["a"], [STORY], {"story": Relu(9)})


def test_a_text_of_one_token_without_prefix_has_nothing_to_pool(tiny: Subject) -> None:
    assert len(tiny.tokenize("a")) == 1
    assert not pool_texts(tiny, ["a"], [STORY], {"story": Relu(1)}).features["story"].any()
