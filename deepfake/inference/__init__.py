"""Scores media with a checkpoint: the same crops as in training, one answer per input."""
