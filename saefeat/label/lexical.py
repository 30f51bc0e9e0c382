"""Is a feature about an emotion, or about the word for it? Two kinds of evidence, neither from the stories.

*Promotes*: the logit lens (nostalgebraist 2020): the tokens whose logits the feature's decoder direction raises
most, and how many of them belong to the emotion's word family. *Fires*: the feature's activation on the word itself
in sentences that say nothing about a feeling ('How do you spell "calm"?'), beside the same sentences with the
other emotions' words.

Shapes: F features (f: a block of them), E emotions, K tokens promoted most, V vocabulary, C carriers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saefeat.errors import InputError
from saefeat.label.pools import Encoder
from saefeat.subject import Subject

CARRIERS = ('The next word on the list is "{word}".', 'How do you spell "{word}"?', "She wrote down {word}.")
TOP_TOKENS = 20
PROMOTED = 3
"""So many of the top tokens in one word family make a feature one that promotes the word."""
SPECIFIC, LEAD, LOUD = 6.0, 1.5, 2.0
"""A feature fires on a word if its activation there is so many standard deviations above the other emotions' words,
so many times the second of them (or pieces of words are taken for words: 'dis-'), and so many times its mean
activation where it is active in the stories (or any feature that a list of words sets off would be about one)."""
PIECE, PIECE_SHARE = 5, 0.6
"""Letters, and share of the word's letters, from which on the start of a word stands for it (' desper')."""
BATCH = 64


@dataclass(frozen=True)
class Lexical:
    """What the words say of each feature. Emotions are indices, -1 for none.

    promotes_F: the emotion whose family fills most of the feature's top tokens, if it fills PROMOTED; promoted_F: how
    many tokens that are. fires_F: the emotion whose word the feature is specific to; z_F: how far that word stands
    above the others', in their standard deviations (inf where the feature is silent on all of them).
    """

    promotes_F: np.ndarray
    promoted_F: np.ndarray
    fires_F: np.ndarray
    z_F: np.ndarray

    @property
    def word_F(self) -> np.ndarray:
        """The emotion whose word the feature fires on, else promotes; -1 for a feature that is not lexical."""
        return np.where(self.fires_F >= 0, self.fires_F, self.promotes_F)


def lexical(
    top_ids_FK: np.ndarray,
    family_VE: np.ndarray,
    word_acts_FE: np.ndarray,
    story_means_FE: np.ndarray,
    density_F: np.ndarray,
) -> Lexical:
    """Both kinds of evidence. top_ids_FK: see `promoted_tokens`; family_VE: `family_tokens`; word_acts_FE:
    `word_activations`; story_means_FE: mean activation over the tokens of each emotion's stories; density_F: the
    share of those tokens on which the feature is active."""
    count_FE = np.stack([family_VE[ids].sum(0) for ids in top_ids_FK]) if len(top_ids_FK) else np.zeros((0, 1), int)
    most_F = count_FE.max(1)
    z_FE = specificity(word_acts_FE)
    own_F, rows = z_FE.argmax(1), np.arange(len(z_FE))
    z_F = z_FE[rows, own_F]
    own_act_F = word_acts_FE[rows, own_F]
    second_F = np.partition(word_acts_FE, -2, axis=1)[:, -2] if word_acts_FE.shape[1] > 1 else 0.0
    loud_F = LOUD * story_means_FE.mean(1) / np.maximum(density_F, 1e-9)
    fires_F = (z_F >= SPECIFIC) & (own_act_F >= LEAD * second_F) & (own_act_F >= loud_F)
    fires_F &= own_act_F > story_means_FE[rows, own_F]
    return Lexical(
        promotes_F=np.where(most_F >= PROMOTED, count_FE.argmax(1), -1),
        promoted_F=most_F,
        fires_F=np.where(fires_F, own_F, -1),
        z_F=z_F,
    )


def specificity(acts_FE: np.ndarray) -> np.ndarray:
    """(F, E): a word's activation minus the mean of the other words', in their standard deviations; inf if they do
    not differ among themselves and it lies above them, -inf below, 0 level with them."""
    acts_FE = acts_FE.astype(np.float64)
    others = max(acts_FE.shape[1] - 1, 1)
    mean_FE = (acts_FE.sum(1, keepdims=True) - acts_FE) / others
    square_FE = ((acts_FE**2).sum(1, keepdims=True) - acts_FE**2) / others
    variance_FE = square_FE - mean_FE**2
    above_FE = acts_FE - mean_FE
    flat_FE = variance_FE <= 1e-9 * square_FE  # what cancellation leaves of nothing
    z_FE = above_FE / np.sqrt(np.where(flat_FE, 1.0, variance_FE))
    level_FE = np.abs(above_FE) <= 1e-9 * np.abs(acts_FE)
    return np.where(flat_FE, np.where(level_FE, 0.0, np.copysign(np.inf, above_FE)), z_FE)


# ---------------------------------------------------------------- what a feature promotes
def promoted_tokens(subject: Subject, W_dec_FD: Tensor, top: int = TOP_TOKENS, *, block: int = 256) -> np.ndarray:
    """(F, K) ids of the tokens whose logits each decoder direction raises most, most raised first."""
    parts = [
        subject.unembed(W_dec_FD[start : start + block]).topk(top, dim=1).indices.cpu().numpy()
        for start in range(0, len(W_dec_FD), block)
    ]
    return np.concatenate(parts).astype(np.int32) if parts else np.zeros((0, top), np.int32)


def vocabulary(subject: Subject) -> list[str]:
    """What each token id reads as, a leading space kept; '' for ids without a text of their own."""
    return [subject.token_strings([token])[0] for token in range(subject.n_vocab)]


def family_tokens(token_V: Sequence[str], word_families: Mapping[str, str], emotions: Sequence[str]) -> np.ndarray:
    """(V, E) bool: does the token belong to the emotion's word family?

    A whole token that matches the family's regular expression does ('calmly', ' Calm'). So does the start of a word,
    after a space, that can hardly be another's: at least 5 letters and 60 % of the emotion's own name, and no
    other family begins with it (' desper'; not ' cont', ' compass' or ' host'). Tokens inside words ('mad' in
    'nomad': no space before, no capital) need 5 letters.
    """
    patterns = [re.compile(word_families[e], re.IGNORECASE) if e in word_families else None for e in emotions]
    names = [emotion.lower() for emotion in emotions]
    family_VE = np.zeros((len(token_V), len(emotions)), bool)
    for v, token in enumerate(token_V):
        word = token.strip().lower()
        starts = token != token.lstrip() or token[:1].isupper()
        if len(word) < 3 or not word[0].isalpha() or not (starts or len(word) >= PIECE):
            continue
        family_VE[v] = [pattern is not None and pattern.fullmatch(word) is not None for pattern in patterns]
        if not family_VE[v].any() and starts and len(word) >= PIECE:
            begun = [e for e, name in enumerate(names) if name.startswith(word)]
            if len(begun) == 1 and len(word) >= PIECE_SHARE * len(names[begun[0]]):
                family_VE[v, begun[0]] = True
    return family_VE


# ---------------------------------------------------------------- what a feature fires on
def word_activations(
    subject: Subject, sae: Encoder, emotions: Sequence[str], carriers: Sequence[str] = CARRIERS
) -> np.ndarray:
    """acts_FE float32: each feature's largest activation on the tokens of the emotion's word, mean over carriers.

    Sink tokens and the first position, which no statistic uses, count as silent. Raises InputError: a carrier
    without exactly one '{word}'.
    """
    acts_FE = np.zeros((sae.n_features, len(emotions)), np.float32)
    items = [(e, *_place(subject, carrier, word)) for carrier in carriers for e, word in enumerate(emotions)]
    items.sort(key=lambda item: len(item[1]))
    for i in range(0, len(items), BATCH):
        batch = items[i : i + BATCH]
        ids_BT = torch.zeros(len(batch), max(len(ids) for _, ids, _ in batch), dtype=torch.long)
        for b, (_, ids, _) in enumerate(batch):
            ids_BT[b, : len(ids)] = torch.tensor(ids)
        x_BTD = subject.residuals(ids_BT, [sae.layer])[sae.layer]
        for b, (e, _, own) in enumerate(batch):
            x_ND = x_BTD[b, own]
            if sae.sink_norm is not None:
                x_ND = x_ND[x_ND.float().norm(dim=-1) <= sae.sink_norm]
            if len(x_ND):
                acts_FE[:, e] += sae.encode(x_ND).amax(0).float().cpu().numpy()
    return acts_FE / max(len(carriers), 1)


def _place(subject: Subject, carrier: str, word: str) -> tuple[list[int], list[int]]:
    """Token ids of the carrier with the word in it, prefix included, and the positions that hold the word."""
    if carrier.count("{word}") != 1:
        raise InputError("a carrier needs one {word}", where=repr(carrier), do='such as "She wrote down {word}."')
    start = carrier.index("{word}")
    ids = subject.tokenize(carrier.replace("{word}", word))
    ends = np.cumsum([len(text) for text in subject.token_strings(ids)])
    starts = np.concatenate([[0], ends[:-1]])
    first = len(subject.prefix_ids)
    inside = np.flatnonzero((ends > start) & (starts < start + len(word))) + first
    return [*subject.prefix_ids, *ids], [int(position) for position in inside if position > 0]
