"""Evaluation: of distributions, restorations, classifiers trained on samples, and by people."""
