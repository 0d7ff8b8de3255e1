"""Recall@K of one step."""

from backstay.evaluation.metrics.ranking import K, RankingTask


def recall_at_k(users_z, items_z, step, *, k=K):
    """Recall@k of (n_users, D) and (n_items, D) vectors on `step`."""
    return RankingTask.of(step).recall(users_z, items_z, k=k)
