import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backstay.datasets.csr import Csr, ranges
from backstay.datasets.dataset import Attributes
from backstay.models.snapshot import Snapshot
from tests.support import dense
from tests.support.snapshots import kind_of, random_snapshot, step_of


@pytest.fixture(params=range(3))
def both(request):
    step, attributes = random_snapshot(request.param)
    return step, Snapshot.of(step, attributes)


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 4)), max_size=8))
def test_ranges_are_aranges_one_after_the_other(pairs):
    starts, counts = np.array(pairs, np.int64).reshape(-1, 2).T
    expected = [start + n for start, count in pairs for n in range(count)]
    assert ranges(starts, counts).tolist() == expected


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), max_size=30), st.data())
@settings(max_examples=50, deadline=None)
def test_rows_hold_the_sorted_columns_of_each_row(cells, data):
    rows, columns = np.array(cells, np.int32).reshape(-1, 2).T
    sparse = Csr.of(rows, columns, (6, 7))
    expected = [sorted(column for row, column in cells if row == n) for n in range(6)]
    found = [
        sparse.columns[start:end].tolist()
        for start, end in zip(sparse.starts[:-1], sparse.starts[1:], strict=True)
    ]
    assert found == expected
    some = np.array(data.draw(st.lists(st.integers(0, 5))), np.int64)
    assert sparse.counts(some).tolist() == [len(expected[row]) for row in some]
    assert sparse.columns[sparse.entries(some)].tolist() == [
        column for row in some for column in expected[row]
    ]
    assert (sparse.starts.dtype, sparse.columns.dtype) == (np.int64, np.int32)


def test_coordinates_may_exceed_what_32_bits_hold():
    nodes = np.array([99_999, 3, 99_999], np.int32)
    rows = Csr.of(nodes, np.array([99_998, 2, 7], np.int32), (100_000, 100_000))
    assert rows.columns.tolist() == [2, 7, 99_998]


def test_neighbours_are_those_of_the_edges_as_often_as_these_are_there(both):
    step, snapshot = both
    for node, others in enumerate(dense.neighbours_of(step)):
        assert snapshot.neighbours.columns[
            snapshot.neighbours.entries(np.array([node]))
        ].tolist() == sorted(others)
    assert snapshot.n_nodes == step.n_users + step.n_items


@pytest.mark.parametrize("normalisation", ["mean", "symmetric"])
def test_links_weigh_messages_by_the_formula(both, normalisation):
    step, snapshot = both
    dst = np.array([0, 3, 5, 11, 14, 20])
    links = snapshot.links(dst, normalisation)
    owners = np.repeat(dst, links.counts)
    found = np.zeros((snapshot.n_nodes, snapshot.n_nodes))
    np.add.at(found, (owners, links.src), links.weights)
    expected = dense.message_matrix(step, normalisation).numpy()
    np.testing.assert_allclose(found[dst], expected[dst], rtol=1e-6)
    assert links.weights.dtype == np.float32


def test_reach_is_the_sum_of_a_nodes_symmetric_weights(both):
    step, snapshot = both
    expected = dense.message_matrix(step, "symmetric").sum(1).numpy()
    np.testing.assert_allclose(snapshot.reach, expected, rtol=1e-12)
    assert snapshot.reach[-1] == 0  # an item without any edge


def test_a_sample_of_the_neighbours_weighs_what_all_of_them_do():
    step, attributes = random_snapshot()
    snapshot = Snapshot.of(step, attributes)
    user = int(np.diff(snapshot.neighbours.starts)[: step.n_users].argmax())
    others = np.array(dense.neighbours_of(step)[user])
    sample, dst, counts = others[[1, 0]], np.array([user]), np.array([2])
    mean = snapshot.weights(dst, counts, sample, "mean")
    symmetric = snapshot.weights(dst, counts, sample, "symmetric")
    exact = dense.message_matrix(step, "symmetric").numpy()
    once = [(others == source).sum() for source in sample]
    np.testing.assert_allclose(mean, [0.5, 0.5])
    np.testing.assert_allclose(
        symmetric, [exact[user, s] / n * len(others) / 2 for s, n in zip(sample, once, strict=True)]
    )


def test_before_the_first_layer_all_users_share_one_node():
    snapshot = Snapshot.of(*random_snapshot(n_users=12, n_items=9))
    assert snapshot.distinct(np.array([0, 5, 11, 12, 20])).tolist() == [0, 0, 0, 1, 9]


def test_inputs_average_the_values_of_each_kind():
    step, attributes = random_snapshot()
    snapshot = Snapshot.of(step, attributes)
    owners = np.repeat(np.arange(1 + step.n_items), np.diff(snapshot.inputs.starts))
    found = np.zeros((1 + step.n_items, snapshot.n_values))
    found[owners, snapshot.inputs.columns] = snapshot.input_weights
    expected = dense.input_matrix(step, attributes)[step.n_users - 1 :]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6)


def test_items_beyond_the_step_are_left_out():
    kinds = (kind_of("genre", [[0], [1], [0, 1]], values=2),)
    snapshot = Snapshot.of(step_of([(0, 0)], n_users=1, n_items=2), Attributes(kinds))
    assert len(snapshot.inputs.starts) == 1 + 1 + 2
    assert snapshot.inputs.columns.tolist() == [0, 1, 2]
    assert snapshot.n_nodes == 3


def test_a_snapshot_without_edges_has_nodes_all_the_same():
    snapshot = Snapshot.of(step_of([], n_users=2, n_items=1), Attributes(()))
    links = snapshot.links(np.arange(3), "symmetric")
    assert links.counts.tolist() == [0, 0, 0]
    assert snapshot.reach.tolist() == [0, 0, 0]
    assert (snapshot.n_values, snapshot.inputs.columns.tolist()) == (1, [0])


def test_a_snapshot_travels_between_processes(both):
    _, snapshot = both
    again = pickle.loads(pickle.dumps(snapshot))
    np.testing.assert_array_equal(again.neighbours.columns, snapshot.neighbours.columns)
    np.testing.assert_array_equal(again.reach, snapshot.reach)
