"""Figures computed from arrays: ranking, ROC-AUC, alignment distance, bootstrap."""
