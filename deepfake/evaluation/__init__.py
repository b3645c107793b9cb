"""Answers that can be defended: figures with intervals, calibration, and reports for people."""
