"""Lexical evidence: which tokens belong to a word, which words a feature is specific to, and the model's part of it."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saefeat.corpus import load_corpus
from saefeat.errors import InputError
from saefeat.files import shipped
from saefeat.label.lexical import (
    CARRIERS,
    PROMOTED,
    SPECIFIC,
    family_tokens,
    lexical,
    promoted_tokens,
    specificity,
    vocabulary,
    word_activations,
)
from saefeat.sae import load_sae
from saefeat.subject import Subject

STORIES = load_corpus("stories")


@dataclass
class Streams:
    """An 'SAE' whose activations are the residual stream itself, for looking at what is read."""

    layer: int = 1
    n_features: int = 32
    sink_norm: float | None = None

    def encode(self, x_ND: Tensor) -> Tensor:
        return x_ND.float()


def families_of(*tokens: str) -> list[list[str]]:
    family_VE = family_tokens(tokens, STORIES.word_families, STORIES.emotions)
    return [[STORIES.emotions[e] for e in np.flatnonzero(row)] for row in family_VE]


# ---------------------------------------------------------------- tokens of a word family
def test_whole_words_of_a_family_count_in_any_spelling() -> None:
    assert families_of(" calm", "Calm", " CALM", " calmly", "calming") == [["calm"]] * 5
    assert families_of(" grief", " griev", " hopeless") == [["grief-stricken"], ["grief-stricken"], ["hope", "hopeful"]]
    assert families_of(" table", "", " ", "!", " 1990") == [[]] * 5


def test_the_start_of_a_word_counts_if_it_can_hardly_be_another() -> None:
    assert families_of(" desper", " exasper", " jealo") == [["desperate"], ["exasperated"], ["jealous"]]
    assert families_of(" cont", " compass", " host", " rest", " list", " des") == [[]] * 6


def test_pieces_inside_words_need_length() -> None:
    assert families_of("mad", "sad", "desper") == [[], [], []]  # nomad, crusad-er
    assert families_of("nervous", "Mad") == [["nervous"], ["mad"]]


def test_an_emotion_without_a_pattern_still_knows_the_start_of_its_name() -> None:
    assert family_tokens([" serenit", " ser"], {}, ["serenity", "mad"]).tolist() == [[True, False], [False, False]]


# ---------------------------------------------------------------- the rule
def slow_z(acts_E: np.ndarray, e: int) -> float:
    others = np.delete(acts_E, e)
    if others.std() < 1e-6:
        return 0.0 if abs(acts_E[e] - others.mean()) < 1e-6 else float(np.copysign(np.inf, acts_E[e] - others.mean()))
    return float((acts_E[e] - others.mean()) / others.std())


@settings(deadline=None)
@given(seed=st.integers(0, 999), E=st.integers(2, 8), values=st.integers(1, 4))
def test_specificity_is_the_distance_from_the_other_words(seed: int, E: int, values: int) -> None:
    acts_FE = np.random.default_rng(seed).integers(0, values, size=(3, E)).astype(np.float32)
    z_FE = specificity(acts_FE)
    for f, e in np.ndindex(3, E):
        assert z_FE[f, e] == pytest.approx(slow_z(acts_FE[f], e), rel=1e-5, abs=1e-5)


def test_a_feature_that_fires_on_one_word_alone_is_lexical() -> None:
    rng = np.random.default_rng(0)
    E, F = 12, 7
    acts_FE = rng.random((F, E)).astype(np.float32)
    acts_FE[1] = 0
    acts_FE[1, 4] = 1.5  # only on word 4, but faintly
    acts_FE[2, 7] = 30.0  # far more on word 7
    acts_FE[3, 8] = 30.0  # the same, but more still in the stories of 8
    acts_FE[4] = 5.0  # on all words alike
    acts_FE[5] = acts_FE[2]  # as on feature 2, but that is how strongly it fires anywhere
    acts_FE[6] = acts_FE[2]
    acts_FE[6, 3] = 25.0  # two words share it
    story_FE = np.full((F, E), 0.01)
    story_FE[3, 8] = 31.0
    density_F = np.full(F, 0.01)
    density_F[5] = 0.0005  # 20 where it is active
    found = lexical(np.zeros((F, 20), int), np.zeros((9, E), bool), acts_FE, story_FE, density_F)
    assert found.fires_F.tolist() == [-1, -1, 7, -1, -1, -1, -1]
    story_FE[1] /= 10
    found = lexical(np.zeros((F, 20), int), np.zeros((9, E), bool), acts_FE, story_FE, density_F)
    assert found.fires_F.tolist() == [-1, 4, 7, -1, -1, -1, -1]
    assert found.z_F[1] == np.inf
    assert found.z_F[2] >= SPECIFIC
    assert (found.promotes_F == -1).all()
    assert found.word_F.tolist() == found.fires_F.tolist()


def test_a_feature_promotes_the_family_that_fills_its_top_tokens() -> None:
    family_VE = np.zeros((100, 6), bool)
    family_VE[:10, 2] = family_VE[10:20, 5] = True
    ids_FK = np.array([[50, 51, 52, 53, 54, 55], [0, 1, 2, 50, 51, 10], [0, 10, 11, 12, 13, 1], [0, 1, 50, 51, 52, 53]])
    silent = np.zeros((4, 6), np.float32)
    found = lexical(ids_FK, family_VE, silent, silent, np.ones(4))
    assert found.promotes_F.tolist() == [-1, 2, 5, -1]
    assert found.promoted_F.tolist() == [0, 3, 4, 2]
    assert found.promoted_F[3] < PROMOTED
    assert (found.fires_F == -1).all()


def test_what_fires_on_a_word_is_named_by_it_even_if_it_promotes_another() -> None:
    family_VE = np.zeros((30, 2), bool)
    family_VE[:20, 1] = True
    acts = np.array([[1.0, 0.0]], np.float32)
    assert lexical(np.arange(20)[None], family_VE, acts, 0 * acts, np.ones(1)).word_F.tolist() == [0]


# ---------------------------------------------------------------- the model's part
def test_the_word_is_read_on_its_own_tokens_whatever_surrounds_it(tiny: Subject) -> None:
    carrier = 'She counted "{word}" again.'
    acts_FE = word_activations(tiny, Streams(), ["at ease", "rent"], [carrier])
    for e, word in enumerate(("at ease", "rent")):
        whole = tiny.tokenize(carrier.replace("{word}", word))
        x_TD = tiny.residuals(torch.tensor([[*tiny.prefix_ids, *whole]]), [1])[1][0, len(tiny.prefix_ids) :]
        strings = tiny.token_strings(whole)
        starts = [len("".join(strings[:t])) for t in range(len(strings))]
        own = [t for t, s in enumerate(starts) if s < 13 + len(word) and s + len(strings[t]) > 13]
        assert word in "".join(strings[t] for t in own)
        np.testing.assert_allclose(acts_FE[:, e], x_TD[own].amax(0), rtol=1e-4, atol=1e-5)


def test_carriers_are_averaged_and_the_batch_does_not_matter(tiny: Subject) -> None:
    words = ["rent", "at ease", "tired", "laughed until"]
    each = [word_activations(tiny, Streams(), words, [carrier]) for carrier in CARRIERS]
    np.testing.assert_allclose(word_activations(tiny, Streams(), words), np.mean(each, 0), rtol=1e-4, atol=1e-5)
    alone = np.concatenate([word_activations(tiny, Streams(), [word]) for word in words], axis=1)
    np.testing.assert_allclose(alone, np.mean(each, 0), rtol=1e-4, atol=1e-5)


def test_sinks_and_the_first_position_are_silent(tiny: Subject) -> None:
    assert (word_activations(tiny, Streams(sink_norm=0.0), ["rent"]) == 0).all()
    assert len(tiny.tokenize("Q was")) > len(tiny.tokenize("Q"))
    assert (word_activations(tiny, Streams(), ["Q"], ["{word} was"]) == 0).all()


def test_a_carrier_without_one_word_is_refused(tiny: Subject) -> None:
    for carrier in ("She wrote it down.", "{word}, {word}"):
        with pytest.raises(InputError, match=r"needs one \{word\}"):
            word_activations(tiny, Streams(), ["rent"], [carrier])


def test_promoted_tokens_are_the_largest_of_the_logit_lens(tiny: Subject) -> None:
    W_FD = torch.randn(5, tiny.d_model, generator=torch.Generator().manual_seed(0))
    ids_FK = promoted_tokens(tiny, W_FD, 4, block=2)
    logits_FV = tiny.unembed(W_FD).numpy()
    np.testing.assert_array_equal(ids_FK, np.argsort(-logits_FV, axis=1)[:, :4])
    assert promoted_tokens(tiny, W_FD[:0]).shape == (0, 20)
    assert len(vocabulary(tiny)) == tiny.n_vocab


@pytest.mark.model
def test_real_words_are_promoted_by_their_own_unembedding_and_set_off_features_of_the_shipped_sae(
    default_subject: Subject,
) -> None:
    sae, words = load_sae(shipped("checkpoints") / "smollm2-135m-instruct-l19"), STORIES.emotions
    family_VE = family_tokens(vocabulary(default_subject), STORIES.word_families, words)
    many = np.flatnonzero(family_VE.sum(0) >= 5)
    W_VD = default_subject.parts.unembedding.weight.float()  # type: ignore[union-attr, operator]
    W_VD = W_VD - W_VD.mean(0)
    W_FD = torch.stack([W_VD[torch.from_numpy(np.flatnonzero(family_VE[:, e]))].mean(0) for e in many])
    acts_FE = word_activations(default_subject, sae, words, CARRIERS[:1])
    silent, flat = np.zeros((len(many), len(words)), np.float32), np.zeros(acts_FE.shape)
    found = lexical(promoted_tokens(default_subject, W_FD), family_VE, silent, silent, np.ones(len(many)))
    assert len(many) > 15
    assert (found.promotes_F == many).mean() > 0.8
    fires_F = lexical(np.zeros((len(acts_FE), 1), int), family_VE, acts_FE, flat, np.ones(len(acts_FE))).fires_F
    assert len(set(fires_F[fires_F >= 0].tolist())) > 80
