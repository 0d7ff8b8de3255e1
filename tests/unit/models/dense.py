"""The formulas of messages, said slowly: one node, one edge, one value at a time, in float64."""

import torch


def heard_by(step):
    """Per node, users first: the nodes it hears, as often as the edge is there."""
    heard = [[] for _ in range(step.n_users + step.n_items)]
    for user, item in zip(step.train.users.tolist(), step.train.items.tolist(), strict=True):
        heard[user].append(step.n_users + item)
        heard[step.n_users + item].append(user)
    return heard


def message_matrix(step, normalisation):
    """(N, N): what the message of each column counts for each row."""
    heard = heard_by(step)
    matrix = torch.zeros(len(heard), len(heard), dtype=torch.float64)
    for node, neighbours in enumerate(heard):
        for neighbour in neighbours:
            other = len(heard[neighbour]) if normalisation == "symmetric" else len(neighbours)
            matrix[node, neighbour] += 1 / (len(neighbours) * other) ** 0.5
    return matrix


def input_matrix(step, attributes):
    """(N, values): value 0 for a user; for an item the mean over each kind's values."""
    size = 1 + sum(len(kind.values) for kind in attributes.kinds)
    matrix = torch.zeros(step.n_users + step.n_items, size, dtype=torch.float64)
    matrix[: step.n_users, 0] = 1
    for item in range(step.n_items):
        first = 1
        for kind in attributes.kinds:
            values = kind.indices[kind.indptr[item] : kind.indptr[item + 1]].tolist()
            for value in values:
                matrix[step.n_users + item, first + value] += 1 / len(values)
            first += len(kind.values)
    return matrix
