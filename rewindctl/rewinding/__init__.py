"""Points in training: the schedule, the retraining methods as plans, and checkpoints to rewind to."""
