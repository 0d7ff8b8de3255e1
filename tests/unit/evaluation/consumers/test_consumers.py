import json
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from backstay.errors import InputError, UsageError
from backstay.evaluation.consumers.inputs import StepVectors
from backstay.evaluation.consumers.labels import ConsumerTask, Examples
from backstay.evaluation.consumers.model import Consumer, judge
from backstay.evaluation.consumers.training import (
    FAST,
    PAPER,
    ConsumerConfig,
    train_consumer,
    train_consumers,
)
from backstay.evaluation.metrics.roc_auc import roc_auc

DIM = 6
QUICK = ConsumerConfig(widths=(16,), dropouts=(0.0,), seeds=2, epochs=4, batch=64)


@pytest.fixture(scope="module")
def tables():
    rng = np.random.default_rng(0)
    return StepVectors.of(
        rng.normal(size=(300, DIM)).astype(np.float32),
        rng.normal(size=(200, DIM)).astype(np.float32),
    )


def pair_examples(tables, count, seed):
    """Pairs whose label is a linear rule of both vectors: learnable by anything."""
    rng = np.random.default_rng(seed)
    users, items = rng.integers(0, 300, count), rng.integers(0, 200, count)
    labels = tables.users.numpy()[users, 0] + tables.items.numpy()[items, 1] > 0
    return Examples(users, items, labels)


@pytest.fixture(scope="module")
def task(tables):
    return ConsumerTask(
        name="edge_rating",
        train=pair_examples(tables, 1500, 1),
        early_stop=pair_examples(tables, 300, 2),
        early_stop_step=0,
        judge={1: pair_examples(tables, 400, 3)},
    )


@pytest.fixture(scope="module")
def consumer(task, tables):
    return train_consumer(task, tables, tables, width=16, dropout=0.25, seed=0, config=QUICK)


def slow_network(weights, x):
    """The published consumer in evaluation mode, a row and a layer at a time."""

    def norm(name, row):
        scale = weights[f"{name}.weight"] / np.sqrt(weights[f"{name}.running_var"] + 1e-5)
        return (row - weights[f"{name}.running_mean"]) * scale + weights[f"{name}.bias"]

    def linear(name, row):
        return weights[f"{name}.weight"] @ row + weights[f"{name}.bias"]

    out = []
    for row in x:
        hidden = np.maximum(norm("1", linear("0", row)), 0)
        out.append(linear("7", norm("5", linear("4", hidden)))[0])  # no ReLU after the second
    return np.array(out)


def test_is_the_published_network(consumer):
    weights = {
        name: value.numpy().astype(np.float64)
        for name, value in consumer.network.state_dict().items()
    }
    x = np.random.default_rng(4).normal(size=(9, 2 * DIM)).astype(np.float32)
    np.testing.assert_allclose(consumer.scores(x), slow_network(weights, x), rtol=1e-4, atol=1e-5)


def test_learns_and_is_judged_by_auc_on_gathered_pairs(consumer, task, tables):
    examples = task.judge[1]
    rows = np.concatenate(
        [tables.users.numpy()[examples.users], tables.items.numpy()[examples.items]], axis=1
    )
    auc = judge(consumer, examples, tables)
    assert auc > 0.95
    assert auc == pytest.approx(roc_auc(consumer.scores(rows), examples.labels), abs=1e-9)
    assert consumer.validation_auc == pytest.approx(
        judge(consumer, task.early_stop, tables), abs=1e-9
    )


def test_logits_are_the_scores_of_the_rows_that_examples_name(consumer, task, tables):
    examples = task.judge[1]
    pairs = zip(examples.users.tolist(), examples.items.tolist(), strict=True)
    rows = np.stack(
        [np.concatenate([tables.users.numpy()[u], tables.items.numpy()[i]]) for u, i in pairs]
    )
    found = consumer.logits(examples, tables)
    assert (found.shape, found.dtype) == ((len(examples),), np.float32)
    np.testing.assert_allclose(found, consumer.scores(rows), rtol=1e-6)
    assert judge(consumer, examples, tables) == roc_auc(found, examples.labels)


@pytest.mark.parametrize("kind", ["users", "items"])
def test_single_entities(tables, kind):
    table = getattr(tables, kind).numpy()
    rows = np.arange(len(table))
    examples = Examples(
        rows if kind == "users" else None, rows if kind == "items" else None, table[:, 0] > 0
    )
    task = ConsumerTask(
        name="user_activity" if kind == "users" else "item_rating_mean",
        train=examples,
        early_stop=examples,
        early_stop_step=0,
        judge={1: examples},
    )
    consumer = train_consumer(task, tables, tables, width=8, dropout=0.0, seed=0, config=QUICK)
    assert consumer.dim == DIM
    assert judge(consumer, examples, tables) == roc_auc(consumer.scores(table), examples.labels)


def test_the_seed_alone_decides(task, tables, consumer):
    torch.manual_seed(99)
    torch.rand(5)
    before = torch.get_rng_state()
    again = train_consumer(task, tables, tables, width=16, dropout=0.25, seed=0, config=QUICK)
    assert torch.equal(torch.get_rng_state(), before)
    other = train_consumer(task, tables, tables, width=16, dropout=0.25, seed=1, config=QUICK)
    first, second, third = (c.network.state_dict() for c in (consumer, again, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["0.weight"], third["0.weight"])


def test_keeps_the_best_epoch_and_stops_after_patience(task, tables):
    rng = np.random.default_rng(5)
    noise = Examples(task.train.users, task.train.items, rng.random(len(task.train)) < 0.5)
    unlearnable = ConsumerTask(
        name="edge_rating",
        train=noise,
        early_stop=task.early_stop,
        early_stop_step=0,
        judge=task.judge,
    )

    def fit(epochs, patience):
        config = ConsumerConfig(
            widths=(16,), dropouts=(0.0,), seeds=1, epochs=epochs, patience=patience, batch=64
        )
        return train_consumer(
            unlearnable, tables, tables, width=16, dropout=0.0, seed=0, config=config
        )

    every = [fit(epochs, None).validation_auc for epochs in range(1, 9)]
    assert every == sorted(every)  # the best so far never falls
    full = fit(8, None)
    assert full.validation_auc == every[full.epoch - 1]
    assert full.epoch == 1 + every.index(max(every))
    waits = [next((n for n in range(k + 1, 8) if every[n] > every[k]), 8) - k for k in range(8)]
    patient = fit(8, 1)
    assert patient.epoch == next(k for k in range(8) if waits[k] > 1) + 1


def test_chooses_on_seed_zero_then_trains_every_seed(task, tables):
    config = ConsumerConfig(widths=(2, 16), dropouts=(0.0, 0.5), seeds=3, epochs=3, batch=64)
    consumers = train_consumers(task, tables, tables, config=config)
    candidates = {
        (width, dropout): train_consumer(
            task, tables, tables, width=width, dropout=dropout, seed=0, config=config
        ).validation_auc
        for width in config.widths
        for dropout in config.dropouts
    }
    best = max(candidates, key=candidates.get)
    assert [consumer.seed for consumer in consumers] == [0, 1, 2]
    assert {(consumer.width, consumer.dropout) for consumer in consumers} == {best}
    assert consumers[0].validation_auc == candidates[best]


def test_a_large_task_is_seen_a_draw_an_epoch(task, tables):
    def weights(**changes):
        config = ConsumerConfig(
            widths=(4,), dropouts=(0.0,), seeds=1, epochs=1, batch=64, **changes
        )
        return train_consumer(
            task, tables, tables, width=4, dropout=0.0, seed=0, config=config
        ).network.state_dict()

    every, some = weights(), weights(epoch_examples=640)
    assert every["1.num_batches_tracked"] == -(-1500 // 64)
    assert some["1.num_batches_tracked"] == 10


def test_one_thread_while_training_and_as_before_after_it(task, tables):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        train_consumer(task, tables, tables, width=4, dropout=0.0, seed=0, config=QUICK)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_left_over_row_is_no_batch(tables):
    rows = np.arange(65)  # batches of 64 and 1
    examples = Examples(rows, None, tables.users.numpy()[:65, 0] > 0)
    task = ConsumerTask(
        name="user_activity",
        train=examples,
        early_stop=examples,
        early_stop_step=1,
        judge={2: examples},
    )
    consumer = train_consumer(task, tables, tables, width=4, dropout=0.0, seed=0, config=QUICK)
    assert np.isfinite(consumer.scores(tables.users)).all()


def test_read_only_arrays_are_read_in_place(consumer, tables):
    shared = tables.users.numpy().copy()
    shared.flags.writeable = False
    taken = StepVectors.of(shared, tables.items)
    assert taken.users.numpy().ctypes.data == shared.ctypes.data
    pairs = np.zeros((3, 2 * DIM), np.float32)
    pairs.flags.writeable = False
    assert consumer.scores(pairs).shape == (3,)
    assert consumer.scores(pairs[:0]).shape == (0,)


def test_examples_out_of_shared_memory_are_fine(tables):
    rows, labels = np.arange(300), tables.users.numpy()[:, 0] > 0
    rows.flags.writeable = labels.flags.writeable = False
    examples = Examples(rows, None, labels)
    task = ConsumerTask(
        name="user_activity",
        train=examples,
        early_stop=examples,
        early_stop_step=1,
        judge={2: examples},
    )
    # Torch warns of read-only arrays once in a process, so another test may have used it up.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.set_warn_always(True)
        try:
            train_consumer(task, tables, tables, width=4, dropout=0.0, seed=0, config=QUICK)
        finally:
            torch.set_warn_always(False)


def test_round_trip_without_pickle(tmp_path, consumer):
    path = tmp_path / "consumers" / "edge.safetensors"
    consumer.save(path)
    back = Consumer.load(path)
    x = np.random.default_rng(6).normal(size=(20, 2 * DIM)).astype(np.float32)
    np.testing.assert_array_equal(back.scores(x), consumer.scores(x))
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    for field in ("task", "dim", "width", "dropout", "seed", "epoch", "validation_auc"):
        assert getattr(back, field) == getattr(consumer, field)
    assert not any(parameter.requires_grad for parameter in back.network.parameters())


def test_refuses_what_is_no_consumer(tmp_path, consumer):
    path = tmp_path / "c.safetensors"
    with pytest.raises(InputError, match="can't be read"):
        Consumer.load(path)
    consumer.save(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="can't be read"):
        Consumer.load(path)
    save_file({"w": torch.zeros(2)}, path)
    with pytest.raises(InputError, match="holds no consumer"):
        Consumer.load(path)
    about = {"format": "backstay-consumer-1", "width": json.dumps(4)}
    save_file({"w": torch.zeros(2)}, path, about)
    with pytest.raises(InputError, match="can't be read"):
        Consumer.load(path)


def test_refuses_vectors_of_another_dimension(task, tables, consumer):
    with pytest.raises(UsageError, match="12 dimensions"):
        consumer.scores(np.zeros((2, 5), np.float32))
    wide = StepVectors(torch.zeros(300, 9), torch.zeros(200, 9))
    with pytest.raises(UsageError, match="found 18"):
        judge(consumer, task.judge[1], wide)
    with pytest.raises(UsageError, match="M_0's own"):
        train_consumer(task, tables, wide, width=4, dropout=0.0, seed=0, config=QUICK)
    with pytest.raises(UsageError, match="own step"):
        judge(consumer, task.judge[1], StepVectors(tables.users[:5], tables.items))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("widths", ()),
        ("widths", (0,)),
        ("dropouts", (1.0,)),
        ("seeds", 0),
        ("epochs", 0),
        ("patience", 0),
        ("batch", 1),
        ("epoch_examples", 2047),
        ("learning_rate", 0.0),
    ],
)
def test_a_config_out_of_range_names_its_field(field, value):
    good = {"widths": (4,), "dropouts": (0.0,), "seeds": 1, "epochs": 1}
    with pytest.raises(UsageError, match=field):
        ConsumerConfig(**{**good, field: value})


def test_presets():
    assert (len(PAPER.widths), len(PAPER.dropouts), PAPER.seeds) == (4, 3, 10)
    assert (FAST.widths, FAST.dropouts, FAST.seeds, FAST.epochs) == ((128,), (0.0, 0.25), 3, 50)
