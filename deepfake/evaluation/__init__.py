"""Scores that can be defended: metrics with intervals, calibration, robustness, explanations."""
