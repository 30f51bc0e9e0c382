"""The whole chain in one call: `build` for any config, `demo` for the embedded default model."""

from saefeat.pipeline.build import Built, Report, build, measured_quality
from saefeat.pipeline.demo import DEMO_QUERIES, demo, demo_config
from saefeat.pipeline.plan import Plan, plan
from saefeat.pipeline.stage import Stage

__all__ = [
    "DEMO_QUERIES",
    "Built",
    "Plan",
    "Report",
    "Stage",
    "build",
    "demo",
    "demo_config",
    "measured_quality",
    "plan",
]
