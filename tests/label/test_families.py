"""Families: planted groups, the number of them from stability, the adjusted Rand index, linkage against scipy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from sklearn.metrics import adjusted_rand_score

from saefeat.label import families
from saefeat.label.families import adjusted_rand, alikeness, average_linkage, stability

partitions = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 3), min_size=n, max_size=n), st.lists(st.integers(0, 3), min_size=n, max_size=n)
    )
)


def scores(group_E: np.ndarray, P: int, *, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Held-out scores in which the emotions of a group are mistaken for each other."""
    E = len(group_E)
    emotion_N, topic_N = np.tile(np.arange(E), P), np.repeat(np.arange(P), E)
    heldout_NE = 2.0 * (group_E[emotion_N][:, None] == group_E) + 1.0 * (emotion_N[:, None] == np.arange(E))
    return heldout_NE + noise * np.random.default_rng(seed).normal(size=heldout_NE.shape), emotion_N, topic_N


def partition(found: dict[str, str]) -> np.ndarray:
    return np.unique(list(found.values()), return_inverse=True)[1]


@pytest.mark.parametrize("size", [4, 5])
def test_planted_groups_are_found_in_their_number_and_named_by_a_member(size: int) -> None:
    group_E = np.repeat(np.arange(40 // size), size)
    names = [f"e{e}" for e in range(len(group_E))]
    found = families(*scores(group_E, 8, noise=1.0), names)
    assert adjusted_rand(partition(found), group_E) == 1
    for name, family in found.items():
        assert group_E[names.index(family)] == group_E[names.index(name)]
        assert found[family] == family


def test_the_medoid_names_the_family() -> None:
    heldout_NE, emotion_N, topic_N = scores(np.repeat(np.arange(6), 5), 6, noise=0.01)
    heldout_NE[:, 7] += 0.5 * (emotion_N // 5 == 1)  # emotion 7 is closest to the rest of its group
    heldout_NE[emotion_N == 7] += 0.5 * (np.arange(30) // 5 == 1)
    assert families(heldout_NE, emotion_N, topic_N, [f"e{e}" for e in range(30)])["e5"] == "e7"


def test_stability_peaks_at_the_planted_number_and_is_nil_without_structure() -> None:
    E = 40
    agreement = stability(*scores(np.repeat(np.arange(8), 5), 8, noise=1.5), E, splits=5)
    assert max(agreement, key=lambda count: agreement[count]) == 8
    assert set(agreement) == set(range(5, 14))
    assert agreement[8] > agreement[13] + 0.1
    rng = np.random.default_rng(0)
    emotion_N, topic_N = np.tile(np.arange(E), 8), np.repeat(np.arange(8), E)
    noise = stability(rng.normal(size=(8 * E, E)), emotion_N, topic_N, E, splits=5)
    assert all(abs(value) < 0.1 for value in noise.values())


def test_the_seed_decides_the_splits() -> None:
    planted = scores(np.repeat(np.arange(8), 5), 4, noise=3.0)
    assert stability(*planted, 40, splits=3) == stability(*planted, 40, splits=3)
    assert stability(*planted, 40, splits=3) != stability(*planted, 40, splits=3, seed=1)


def test_likeness_needs_both_directions_and_survives_holes() -> None:
    heldout_NE, emotion_N, topic_N = scores(np.arange(6), 3, noise=0.0)
    heldout_NE[emotion_N == 0, 1] = 3.0  # stories of 0 look like 1, not the other way round
    assert alikeness(heldout_NE, emotion_N, 6)[0, 1] == 0
    heldout_NE[emotion_N == 1, 0] = 1.5
    alike_EE = alikeness(heldout_NE, emotion_N, 6)
    assert alike_EE[0, 1] == alike_EE[1, 0] == pytest.approx(0.5)
    heldout_NE[topic_N == 0, 2] = np.nan
    assert np.isfinite(alikeness(heldout_NE, emotion_N, 6)).all()
    without = emotion_N != 3
    assert (np.diag(alikeness(heldout_NE[without], emotion_N[without], 6)) == 1).all()


def test_a_handful_of_emotions_or_one_topic_are_families_of_their_own() -> None:
    assert families(np.zeros((2, 2)), np.array([0, 1]), np.array([0, 1]), ["a", "b"]) == {"a": "a", "b": "b"}
    heldout_NE, emotion_N, topic_N = scores(np.repeat(np.arange(4), 2), 1, noise=0.1)
    names = [f"e{e}" for e in range(8)]
    assert families(heldout_NE, emotion_N, topic_N, names) == {name: name for name in names}


@given(partitions)
def test_the_adjusted_rand_index_is_that_of_sklearn(both: tuple[list[int], list[int]]) -> None:
    a_N, b_N = np.array(both[0]), np.array(both[1])
    assert adjusted_rand(a_N, b_N) == pytest.approx(adjusted_rand_score(a_N, b_N), abs=1e-12)
    assert adjusted_rand(a_N, a_N) == 1


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999), E=st.integers(2, 12))
def test_average_linkage_is_that_of_scipy(seed: int, E: int) -> None:
    points = np.random.default_rng(seed).normal(size=(E, 3))
    distance_EE = np.linalg.norm(points[:, None] - points, axis=2)
    tree = linkage(squareform(distance_EE, checks=False), "average")
    for count, cluster_E in zip(range(E, 0, -1), average_linkage(distance_EE), strict=True):
        assert adjusted_rand(cluster_E, fcluster(tree, count, "maxclust")) == 1
