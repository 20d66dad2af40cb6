"""Evaluation: what a long-tailed test is judged by."""

from ffds.evaluation.metrics import ClassAccuracy, Evaluation, Scores, class_groups, shot_groups

__all__ = ["ClassAccuracy", "Evaluation", "Scores", "class_groups", "shot_groups"]
