"""The formulas of messages as slow loops: one node, one edge, one value at a time, in float64."""

import torch


def neighbours_of(step):
    """Per node, users first: its neighbours, as often as the edge is repeated."""
    found = [[] for _ in range(step.n_users + step.n_items)]
    for user, item in zip(step.train.users.tolist(), step.train.items.tolist(), strict=True):
        found[user].append(step.n_users + item)
        found[step.n_users + item].append(user)
    return found


def message_matrix(step, normalisation):
    """(N, N): the weight of the message from each column's node to each row's node."""
    found = neighbours_of(step)
    matrix = torch.zeros(len(found), len(found), dtype=torch.float64)
    for node, neighbours in enumerate(found):
        for neighbour in neighbours:
            other = len(found[neighbour]) if normalisation == "symmetric" else len(neighbours)
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
            values = kind.rows.columns[kind.rows.starts[item] : kind.rows.starts[item + 1]].tolist()
            for value in values:
                matrix[step.n_users + item, first + value] += 1 / len(values)
            first += len(kind.values)
    return matrix
