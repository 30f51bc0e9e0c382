"""What a score is worth: separation from flat texts and spread by length, counted again the slow way."""

import numpy as np
import pytest

from saefeat.atlas import Atlas
from saefeat.corpus import load_corpus
from saefeat.evaluate import Bench, open_bench
from saefeat.evaluate.worth import bin_name, lengths, separation


@pytest.fixture
def bench(tiny_atlas: Atlas) -> Bench:
    return open_bench(tiny_atlas, stories=load_corpus(tiny_atlas.directory.parents[1] / "stories"), embeddings=False)


def test_separation_counts_pairs_of_emotional_and_flat_texts(bench: Bench) -> None:
    section, (emotional, flat) = separation(bench)
    fitted = bench.fit("story", "sae", every_topic=True)
    top_N, flat_N = fitted.prototypes.heldout_NE.max(1), fitted.emotion_N == -1
    wins = [float(a > b) + 0.5 * float(a == b) for a in top_N[~flat_N] for b in top_N[flat_N]]
    every, narratives, dialogues, short, above = section["rows"][0]["values"]
    assert every == narratives == pytest.approx(np.mean(wins), abs=1e-4)
    assert (dialogues, short) == (None, None), "the corpus has neither flat dialogues nor short texts"
    bound = np.quantile(top_N[flat_N], 0.95)
    assert above == pytest.approx(np.mean([top > bound for top in top_N[~flat_N]]), abs=1e-4)
    assert [len(emotional["story"]), len(flat["narrative, story"])] == [24, 3]
    assert section["figure"] == "reliability.png"


def test_lengths_count_the_scores_of_other_emotions_bin_by_bin(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    stories, subject = bench.stories.stories, bench.atlas.subject()
    count_N = [len(subject.tokenize(story.text)) for story in stories]
    middle = int(np.median(count_N))
    bins = ((1, middle), (middle + 1, None), (10**6, None))
    monkeypatch.setattr("saefeat.evaluate.worth.LENGTHS", bins)
    assert lengths(bench)[0]["figure"] is None, "too few texts to say anything"
    monkeypatch.setattr("saefeat.evaluate.worth.FEWEST", 1)
    section, spread = lengths(bench)
    assert section["figure"] == "lengths.png"
    rows = {row["name"]: row["values"] for row in section["rows"]}
    heldout_NE = bench.fit("story", "sae", every_topic=True).prototypes.heldout_NE
    for place, (low, high) in enumerate(bins[:2]):
        here = [n for n, count in enumerate(count_N) if low <= count <= (high or count)]
        others = [heldout_NE[n, e] for n in here for e in range(4) if bench.emotions[e] != stories[n].emotion]
        expected = [len(here), np.mean(others), np.std(others), np.mean(np.array(others) > 2)]
        assert rows[f"{bin_name(low, high)} tokens, story"] == pytest.approx(expected, abs=1e-4)
        assert spread["story"][place] == pytest.approx(np.std(others), rel=1e-5)
    assert spread["story"][2] is None
    above_E = [
        np.mean([heldout_NE[n, e] > 2 for n in range(len(stories)) if stories[n].emotion != emotion])
        for e, emotion in enumerate(bench.emotions)
    ]
    cell = rows["each emotion, story (range)"][3]
    assert cell == pytest.approx({"value": np.mean(above_E), "low": min(above_E), "high": max(above_E)}, abs=1e-4)
