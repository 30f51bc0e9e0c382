"""The main job on a laptop: a small SAE for the default model, trained and labelled from the shipped corpus."""

from __future__ import annotations

from pathlib import Path

from saefeat.config import STORY, BuildConfig, HarvestConfig, LabelConfig, SubjectConfig, TrainConfig
from saefeat.corpus import load_corpus
from saefeat.files import shipped
from saefeat.pipeline.build import Built, Report, build, silent

DEMO_QUERIES = (
    "The notice was on the door when I got home, red letters, forty-eight hours. I have sold the bike, the phone, my "
    "mother's ring. I rang everyone whose number I still have and nobody picked up. I keep opening the same drawer as "
    "if there could be something else in it. There has to be a way, and I can't see it.",
    "We won by one point in the last second, and I don't remember the noise, only that I was on somebody's shoulders "
    "and couldn't stop laughing. My brother was crying and jumping up and down at once. We ran around the pitch twice "
    "with the cup in the rain and sang all the way home.",
    "He read my diary out loud at dinner, in a funny voice, and the whole table laughed. I looked at my plate. My ears "
    "were burning and I could hear my own heart. I wanted the floor to open. When somebody asked whether it was true "
    "about the letter, I couldn't lift my head.",
)


def demo_config() -> BuildConfig:
    """A few minutes on 2 cores: half of the topics, whose stories are also the text, and 2,304 features."""
    stories = load_corpus("stories")
    topics = stories.topics[: len(stories.topics) // 2]
    folder = shipped("corpora") / "stories"
    text = tuple(str(path) for topic in topics for path in sorted(folder.glob(f"{topic}_*.jsonl")))
    return BuildConfig(
        name="demo",
        subject=SubjectConfig(model="smollm2-135m-instruct"),
        harvest=HarvestConfig(text=text, layers=(19,), tokens=150_000),
        train=TrainConfig(layer=19, features=2304, k=48, tokens=800_000, dead_after=100_000),
        label=LabelConfig(stories="stories", topics=topics, readouts=(STORY,)),
    )


def demo(out: Path, *, report: Report = silent) -> Built:
    """Build the demo's atlas in `out`; a second run reuses what is done."""
    return build(demo_config(), out, report=report)
