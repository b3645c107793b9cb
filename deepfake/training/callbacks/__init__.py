"""What happens beside the training step: one concern a file, each with its own state."""
