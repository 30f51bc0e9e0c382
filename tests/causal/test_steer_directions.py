"""Directions are what they are said to be, and edits move a stream along them and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saefeat.atlas import Atlas
from saefeat.causal import (
    Direction,
    ablate,
    add,
    cap,
    clamp,
    emotion_direction,
    feature_direction,
    matched_feature,
    random_direction,
    residual_scales,
    steering,
)
from saefeat.causal.directions import Means, combined, scale
from saefeat.causal.interventions import Intervention, edited
from saefeat.errors import InputError, UnknownName


def plain(D: int = 8, *, norm: float = 4.0) -> Direction:
    unit_D = torch.randn(D, generator=torch.Generator().manual_seed(0))
    return Direction(name="d", layer=1, unit_D=unit_D / unit_D.norm(), norm=norm, sink_norm=1e9)


def rows(seed: int, N: int = 5, D: int = 8) -> torch.Tensor:
    return 3 * torch.randn(N, D, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(-2, 2))
def test_each_action_sets_the_coefficient_and_touches_nothing_else(seed: int, strength: float) -> None:
    d, x_ND = plain(), rows(seed)
    before_N = x_ND @ d.unit_D
    wanted = {
        add(d, strength): before_N + strength * 4,
        ablate(d): torch.zeros(5),
        clamp(d, strength): torch.full((5,), strength * 4),
        cap(d, strength): before_N.clamp(max=strength * 4),
    }
    for intervention, after_N in wanted.items():
        out_ND = edited(x_ND, intervention)
        torch.testing.assert_close(out_ND @ d.unit_D, after_N, atol=1e-4, rtol=1e-4)
        across_DD = torch.eye(8) - torch.outer(d.unit_D, d.unit_D)
        torch.testing.assert_close(out_ND @ across_DD, x_ND @ across_DD, atol=1e-4, rtol=1e-4)


def test_features_are_edited_by_what_their_activation_lacks(tiny_atlas: Atlas) -> None:
    """x + (a' − a) d_f: the reconstruction changes by that alone, the SAE's error not at all."""
    feature = feature_direction(tiny_atlas, "L1.5")
    sae = tiny_atlas.sae()
    x_ND = tiny_atlas.subject().residuals(torch.arange(40)[None], [1])[1][0, 1:].float()
    acts_NF = sae.encode(x_ND)
    assert (acts_NF[:, 5] > 0).any()
    for intervention, after_N in (
        (ablate(feature), torch.zeros(len(x_ND))),
        (clamp(feature, 0.5), torch.full((len(x_ND),), 0.5 * feature.norm / float(sae.W_dec_FD[5].norm()))),
        (cap(feature, 0.02), acts_NF[:, 5].clamp(max=0.02 * feature.norm / float(sae.W_dec_FD[5].norm()))),
    ):
        wanted_NF = acts_NF.clone()
        wanted_NF[:, 5] = after_N
        error_ND = x_ND - sae.decode(acts_NF)
        torch.testing.assert_close(edited(x_ND, intervention), sae.decode(wanted_NF) + error_ND, atol=1e-4, rtol=1e-4)
    silent_N = acts_NF[:, 5] == 0
    assert torch.equal(edited(x_ND, ablate(feature))[silent_N], x_ND[silent_N])


def test_a_direction_is_the_sparse_combination_of_what_contributes() -> None:
    rng = np.random.default_rng(0)
    W_FD, w_F = torch.from_numpy(rng.normal(size=(6, 4)).astype(np.float32)), np.array([2.0, 1, -1, 3, 0, 1])
    own = Means(pooled_F=np.array([1.0, 1, 0, 0.1, 5, 0]), acts_F=np.array([1.0, 2, 0, 0.5, 9, 0]))
    ordinary = Means(pooled_F=np.array([0.0, 0, 1, 0, 0, 1]), acts_F=np.array([0.0, 0, 1, 0, 0, 1]))
    # contributions: 2, 1, 1, .3, 0, −1
    by_hand = {1: 1 * W_FD[0], 3: W_FD[0] + 2 * W_FD[1] - W_FD[2]}
    by_hand[6] = by_hand[3] + 0.5 * W_FD[3]
    for k, sum_D in by_hand.items():
        torch.testing.assert_close(combined(own, ordinary, w_F, W_FD, k), sum_D / sum_D.norm())
    with pytest.raises(InputError, match="no feature speaks"):
        combined(ordinary, ordinary, w_F, W_FD, 3)
    with pytest.raises(InputError, match="at least one"):
        combined(own, ordinary, w_F, W_FD, 0)


def test_an_emotions_direction_points_where_its_stories_lie(tiny_atlas: Atlas) -> None:
    subject = tiny_atlas.subject()
    found = {emotion: emotion_direction(tiny_atlas, emotion) for emotion in tiny_atlas.emotion_names}

    def mean_D(emotion: str) -> torch.Tensor:
        texts = [story.text for story in tiny_atlas.stories if story.emotion == emotion]
        parts = [subject.residuals(torch.tensor([subject.tokenize(t)]), [1])[1][0, 1:].float() for t in texts]
        return torch.stack([x_TD.mean(0) for x_TD in parts]).mean(0)

    means_ED = torch.stack([mean_D(emotion) for emotion in found])
    for e, one in enumerate(found.values()):
        assert (one.layer, one.unit_D.shape) == (1, (32,))
        assert float(one.unit_D.norm()) == pytest.approx(1, abs=1e-5)
        assert int((means_ED @ one.unit_D).argmax()) == e
    assert emotion_direction(tiny_atlas, "At-Ease").name == "at ease"
    elsewhere = emotion_direction(tiny_atlas, "joyful", layer=0)
    assert elsewhere.layer == 0
    assert torch.equal(elsewhere.unit_D, found["joyful"].unit_D)
    assert elsewhere.norm == scale(tiny_atlas, 0).norm != found["joyful"].norm


def test_norms_leave_out_first_tokens_and_sinks(tiny_atlas: Atlas) -> None:
    subject = tiny_atlas.subject()
    rows = [subject.tokenize("The rent was due and the account was empty."), subject.tokenize("She sang.")]
    got = residual_scales(subject, rows, [0, 2])
    for layer in (0, 2):
        norms = torch.cat([subject.residuals(torch.tensor([r]), [layer])[layer][0, 1:].norm(dim=-1) for r in rows])
        kept = norms[norms <= 5 * norms.median()]
        assert got[layer].norm == pytest.approx(float(kept.mean()), rel=1e-5)
        assert got[layer].sink_norm == pytest.approx(5 * float(norms.median()), rel=1e-5)
    with pytest.raises(InputError, match="two tokens"):
        residual_scales(subject, [[1]], [0])
    assert scale(tiny_atlas, 1).sink_norm == tiny_atlas.sae().sink_norm


def test_controls_are_like_what_they_stand_for(tiny_atlas: Atlas) -> None:
    own = emotion_direction(tiny_atlas, "joyful")
    control = random_direction(own, 3)
    assert (control.layer, control.norm, control.sink_norm) == (own.layer, own.norm, own.sink_norm)
    assert float(control.unit_D.norm()) == pytest.approx(1, abs=1e-5)
    assert torch.equal(control.unit_D, random_direction(own, 3).unit_D)
    assert not torch.equal(control.unit_D, random_direction(own, 4).unit_D)
    feature = feature_direction(tiny_atlas, "L1.5")
    other = matched_feature(tiny_atlas, feature, 1)
    assert other.feature != 5
    assert other.sae is not None
    with pytest.raises(InputError, match="not a feature"):
        matched_feature(tiny_atlas, own)


def test_a_projected_out_direction_is_gone_from_the_stream(tiny_atlas: Atlas) -> None:
    subject, own = tiny_atlas.subject(), emotion_direction(tiny_atlas, "furious")
    ids_BT = torch.tensor([subject.tokenize("He slammed the door, kicked the chair and shouted")])
    with steering(subject, [ablate(own)]):
        x_TD = subject.residuals(ids_BT, [1])[1][0]
    coefficients_T = x_TD @ own.unit_D
    assert float(coefficients_T[1:].abs().max()) < 1e-4
    assert float(coefficients_T[0].abs()) > 1e-3


def test_names_and_layers_that_do_not_fit(tiny_atlas: Atlas) -> None:
    with pytest.raises(UnknownName, match="did you mean 'joyful'"):
        emotion_direction(tiny_atlas, "joyfull")
    with pytest.raises(UnknownName, match="unknown readout"):
        emotion_direction(tiny_atlas, "joyful", readout="none")
    with pytest.raises(InputError, match="has no layer 7"):
        emotion_direction(tiny_atlas, "joyful", layer=7)
    with pytest.raises(InputError, match="no feature L1"):
        feature_direction(tiny_atlas, "64")
    elsewhere = feature_direction(tiny_atlas, "5", layer=0)
    with steering(tiny_atlas.subject(), [add(elsewhere, 0.1)]):
        pass
    with (
        pytest.raises(InputError, match="read at layer 1, not at layer 0"),
        steering(tiny_atlas.subject(), [ablate(elsewhere)]),
    ):
        pass
    with pytest.raises(InputError, match="unknown action"):
        Intervention(direction=elsewhere, action="turn")  # type: ignore[arg-type]
