"""Evaluation: what a long-tailed test is judged by."""
