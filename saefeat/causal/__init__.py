"""Cause: residual streams edited along features and emotions, and what that does to the text that follows."""

from saefeat.causal.compare import compare, control_for
from saefeat.causal.decoder import Decoder, Memory
from saefeat.causal.directions import (
    Scale,
    emotion_direction,
    feature_direction,
    matched_feature,
    random_direction,
    residual_scales,
)
from saefeat.causal.dose import (
    DoseDesign,
    best_feature,
    read_openings,
    run_dose,
    spread_emotions,
    texts_of,
    told_emotion,
)
from saefeat.causal.dose_evidence import evidence
from saefeat.causal.dose_read import read_by_atlas, read_by_judges, read_topics
from saefeat.causal.dose_report import DoseReport, dose_report
from saefeat.causal.dose_response import texts_by_cell
from saefeat.causal.effects import Effects, effects, family_on_top, mean_shift, promoted_words, read_scores
from saefeat.causal.episode import Condition, Reading, Writer
from saefeat.causal.fluency import Fluency, distinct_share, fluency, mean_loss, regime
from saefeat.causal.generate import Generated, generate
from saefeat.causal.impossible import Design, checked, default_conditions, parse_condition, run_study
from saefeat.causal.impossible_report import Report, study_report
from saefeat.causal.interventions import Direction, Intervention, ablate, add, cap, clamp
from saefeat.causal.judge import Judge, fit_judge, masked, word_mask
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
    "DoseDesign",
    "DoseReport",
    "Effects",
    "Ended",
    "Fluency",
    "Generated",
    "Intervention",
    "Judge",
    "Ladder",
    "LadderStudy",
    "Limits",
    "Memory",
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
    "best_feature",
    "cap",
    "cell",
    "checked",
    "clamp",
    "compare",
    "control_for",
    "default_conditions",
    "distinct_share",
    "dose_report",
    "effects",
    "emotion_direction",
    "evidence",
    "family_on_top",
    "feature_direction",
    "fit_judge",
    "fluency",
    "generate",
    "load_tasks",
    "masked",
    "matched_feature",
    "mean_loss",
    "mean_shift",
    "parse_condition",
    "promoted_words",
    "random_direction",
    "read_by_atlas",
    "read_by_judges",
    "read_dialogues",
    "read_ladders",
    "read_messages",
    "read_openings",
    "read_scores",
    "read_topics",
    "regime",
    "residual_scales",
    "row",
    "run_dose",
    "run_study",
    "section",
    "selftest",
    "spread_emotions",
    "steering",
    "study_ladders",
    "study_report",
    "study_scenarios",
    "texts_by_cell",
    "texts_of",
    "told_emotion",
    "word_mask",
]
