"""Cause: residual streams edited along features and emotions, and what that does to the text that follows."""

from saefeat.causal.compare import compare, control_for
from saefeat.causal.directions import (
    Scale,
    emotion_direction,
    feature_direction,
    matched_feature,
    random_direction,
    residual_scales,
)
from saefeat.causal.effects import Effects, effects, family_on_top, mean_shift, promoted_words, read_scores
from saefeat.causal.episode import Condition, Reading, Writer
from saefeat.causal.fluency import Fluency, distinct_share, fluency, mean_loss, regime
from saefeat.causal.generate import Decoder, Generated, generate
from saefeat.causal.impossible import Design, checked, default_conditions, parse_condition, run_study
from saefeat.causal.impossible_report import Report, study_report
from saefeat.causal.interventions import Direction, Intervention, ablate, add, cap, clamp
from saefeat.causal.ladders import Ladder, LadderStudy, Scorer, read_ladders, study_ladders
from saefeat.causal.sandbox import Ended, Limits, Sandbox
from saefeat.causal.scenario_items import Dialogue, Message, read_dialogues, read_messages
from saefeat.causal.scenarios import ScenarioStudy, study_scenarios
from saefeat.causal.selftest import SelfTest, selftest
from saefeat.causal.steer import steering
from saefeat.causal.tables import cell, row, section
from saefeat.causal.tasks import Case, Task, load_tasks
from saefeat.causal.verdict import Verdict, attempt

__all__ = [
    "Case",
    "Condition",
    "Decoder",
    "Design",
    "Dialogue",
    "Direction",
    "Effects",
    "Ended",
    "Fluency",
    "Generated",
    "Intervention",
    "Ladder",
    "LadderStudy",
    "Limits",
    "Message",
    "Reading",
    "Report",
    "Sandbox",
    "Scale",
    "ScenarioStudy",
    "Scorer",
    "SelfTest",
    "Task",
    "Verdict",
    "Writer",
    "ablate",
    "add",
    "attempt",
    "cap",
    "cell",
    "checked",
    "clamp",
    "compare",
    "control_for",
    "default_conditions",
    "distinct_share",
    "effects",
    "emotion_direction",
    "family_on_top",
    "feature_direction",
    "fluency",
    "generate",
    "load_tasks",
    "matched_feature",
    "mean_loss",
    "mean_shift",
    "parse_condition",
    "promoted_words",
    "random_direction",
    "read_dialogues",
    "read_ladders",
    "read_messages",
    "read_scores",
    "regime",
    "residual_scales",
    "row",
    "run_study",
    "section",
    "selftest",
    "steering",
    "study_ladders",
    "study_report",
    "study_scenarios",
]
