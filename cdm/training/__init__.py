"""Training of one stage: state and step, checkpoints, the loop, the metrics log."""
