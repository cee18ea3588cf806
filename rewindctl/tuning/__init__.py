"""Searching the settings of a retraining on a held-out part of the training set; the test set is never looked at."""
