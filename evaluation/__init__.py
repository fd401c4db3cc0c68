"""Honest comparison with the real world: imagined against true frames, plans against what comes of them."""

from __future__ import annotations

from .calibration import CalibrationConfig, calibration
from .calibration_report import CalibrationReport
from .comparison import CompareConfig, CompareReport
from .control import run_control
from .control_report import ControlReport, PlanConfig
from .demo import DemoConfig, DemoReport, run_demo
from .event_report import EventConfig, EventReport
from .event_test import event_test
from .imagine import ImagineConfig, imagine_episode
from .imagined_vs_real import compare
from .plan_ranking import plan_ranking
from .plan_ranking_report import PlanRankingConfig, PlanRankingReport
from .planning_report import PlanningConfig, PlanningReport
from .planning_table import planning_table
from .retention import retention
from .retention_report import RetentionConfig, RetentionReport
from .return_report import ReturnConfig, ReturnReport
from .return_test import return_test
from .sensitivity import SensitivityConfig, SensitivityReport, sensitivity

__all__ = [
    "CalibrationConfig",
    "CalibrationReport",
    "CompareConfig",
    "CompareReport",
    "ControlReport",
    "DemoConfig",
    "DemoReport",
    "EventConfig",
    "EventReport",
    "ImagineConfig",
    "PlanConfig",
    "PlanRankingConfig",
    "PlanRankingReport",
    "PlanningConfig",
    "PlanningReport",
    "RetentionConfig",
    "RetentionReport",
    "ReturnConfig",
    "ReturnReport",
    "SensitivityConfig",
    "SensitivityReport",
    "calibration",
    "compare",
    "event_test",
    "imagine_episode",
    "plan_ranking",
    "planning_table",
    "retention",
    "return_test",
    "run_control",
    "run_demo",
    "sensitivity",
]
