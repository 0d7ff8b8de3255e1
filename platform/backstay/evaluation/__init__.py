"""Ranking, consumers, compatibility figures, the comparison and its report."""
