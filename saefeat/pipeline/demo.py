"""The main job on a laptop: a small SAE for the default model, trained and labelled from the shipped corpus."""

from __future__ import annotations

from pathlib import Path

from saefeat.config import BuildConfig, HarvestConfig, LabelConfig, SubjectConfig, TrainConfig
from saefeat.files import shipped
from saefeat.pipeline.build import Built, Report, build, silent

DEMO_QUERIES = (
    "I counted the coins again and there was no way the rent would be paid by Friday, and nobody left to ask.",
    "We danced in the kitchen until the neighbours knocked, and then they came in and danced too.",
    "He read my diary out loud at dinner and laughed, and everybody at the table laughed with him.",
)


def demo_config() -> BuildConfig:
    """A few minutes on 2 cores: the stories themselves are the text, 2,304 features at layer 19."""
    stories = shipped("corpora") / "stories"
    return BuildConfig(
        name="demo",
        subject=SubjectConfig(model="smollm2-135m-instruct"),
        harvest=HarvestConfig(text=(str(stories),), layers=(19,), tokens=300_000),
        train=TrainConfig(layer=19, features=2304, k=48, tokens=1_000_000, dead_after=100_000),
        label=LabelConfig(stories="stories"),
    )


def demo(out: Path, *, report: Report = silent) -> Built:
    """Build the demo's atlas in `out`; a second run reuses what is done."""
    return build(demo_config(), out, report=report)
