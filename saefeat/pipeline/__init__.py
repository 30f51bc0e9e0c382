"""The whole chain in one call: `build` for any config, `demo` for the embedded default model."""

from saefeat.pipeline.build import Built, Plan, Report, build, measured_quality, plan
from saefeat.pipeline.demo import DEMO_QUERIES, demo, demo_config

__all__ = ["DEMO_QUERIES", "Built", "Plan", "Report", "build", "demo", "demo_config", "measured_quality", "plan"]
