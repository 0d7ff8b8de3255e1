from backstay.serving.rollout import ALIVE_SECONDS, Report, Rollout
from backstay.serving.state import SpaceState

A, B = "a", "b"


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def state(generation, **aliases):
    return SpaceState(space="movies", generation=generation, versions={}, aliases=aliases)


def started(*replicas, patience=300.0):
    """A rollout with state 1 in force on all replicas."""
    clock = Clock()
    rollout = Rollout("registry", patience=patience, lead=0.5, clock=clock)
    rollout.read({"movies": state(1)}, {})
    for replica in replicas:
        report(rollout, replica, prepared=1)
    assert rollout.orders.spaces["movies"].in_force == state(1)
    return rollout, clock


def report(rollout, replica, *, prepared=None, failed=None, in_force=(), shard=False):
    rollout.report(
        Report(
            replica=replica,
            shard=shard,
            prepared={} if prepared is None else {"movies": prepared},
            failed={} if failed is None else {"movies": failed},
            in_force=in_force,
        )
    )


def generations(rollout):
    order = rollout.orders.spaces["movies"]
    return tuple(each and each.generation for each in (order.in_force, order.coming))


def test_before_the_registry_was_read_there_are_no_orders():
    rollout = Rollout("registry")
    report(rollout, A)
    assert rollout.orders.serial == 0
    rollout.read({}, {})
    assert rollout.orders.serial == 1


def test_a_state_is_in_force_once_all_replicas_have_prepared_it():
    rollout, clock = started(A, B)
    rollout.read({"movies": state(2, prod=1)}, {})
    assert generations(rollout) == (1, 2)
    report(rollout, A, prepared=2)
    assert generations(rollout) == (1, 2)
    report(rollout, B, prepared=2)
    assert generations(rollout) == (2, None)
    assert rollout.orders.spaces["movies"].since == clock.now + 0.5  # all have the order by then


def test_nothing_changes_without_a_change():
    rollout, _ = started(A, B)
    before = rollout.orders
    rollout.read({"movies": state(7)}, {})  # as read by another process
    report(rollout, A, prepared=1)
    rollout.settle()
    assert rollout.orders is before


def test_a_state_that_no_replica_can_prepare_is_never_in_force():
    rollout, clock = started(A, B)
    rollout.read({"movies": state(2, prod=1)}, {})
    for _ in range(100):
        clock.now += 10
        report(rollout, A, failed=2)
        report(rollout, B, failed=2)
    assert generations(rollout) == (1, 2)
    rollout.read({"movies": state(3, prod=0)}, {})
    report(rollout, A, prepared=3)
    report(rollout, B, prepared=3)
    assert generations(rollout) == (3, None)


def test_a_replica_that_lags_is_waited_for_with_patience_only():
    rollout, clock = started(A, B, patience=60.0)
    rollout.read({"movies": state(2, prod=1)}, {})
    for _ in range(5):
        clock.now += 10
        report(rollout, A, prepared=2)
        report(rollout, B, failed=2)
        assert generations(rollout) == (1, 2)
    clock.now += 20
    report(rollout, A, prepared=2)
    assert generations(rollout) == (2, None)


def test_a_dead_replica_is_not_waited_for():
    rollout, clock = started(A, B)
    rollout.read({"movies": state(2, prod=1)}, {})
    clock.now += ALIVE_SECONDS - 1
    report(rollout, A, prepared=2)
    assert generations(rollout) == (1, 2)
    clock.now += 1
    rollout.settle()
    assert generations(rollout) == (2, None)


def test_at_the_first_start_what_can_be_loaded_is_served():
    rollout = Rollout("registry", clock=Clock())
    rollout.read({"movies": state(1)}, {})
    report(rollout, A)
    report(rollout, B, failed=1)
    assert generations(rollout) == (None, 1)
    report(rollout, A, failed=1)
    assert generations(rollout) == (1, None)


def test_after_its_own_restart_it_goes_on_from_what_the_replicas_have():
    clock = Clock()
    rollout = Rollout("registry", clock=clock)
    report(rollout, A, in_force=(state(1),))
    rollout.read({"movies": state(5)}, {})  # the same content, read anew
    assert generations(rollout) == (1, None)
    rollout.read({"movies": state(6, prod=1)}, {})
    assert generations(rollout) == (1, 6)


def test_a_restart_while_the_registry_changes_still_takes_two_phases():
    rollout = Rollout("registry", clock=Clock())
    rollout.read({"movies": state(6, prod=1)}, {})
    report(rollout, A, prepared=1, in_force=(state(1),))
    report(rollout, B, prepared=1, in_force=(state(1),))
    assert generations(rollout) == (1, 6)
    report(rollout, A, prepared=6)
    assert generations(rollout) == (1, 6)
    report(rollout, B, prepared=6)
    assert generations(rollout) == (6, None)


def test_a_dropped_space_has_no_order_and_an_unreadable_one_keeps_it():
    rollout, _ = started(A)
    rollout.read({"movies": state(1)}, {"movies": "the store is away", "books": "damaged"})
    assert generations(rollout) == (1, None)
    assert rollout.orders.faults == {"movies": "the store is away", "books": "damaged"}
    rollout.read({}, {"movies": "the store is away"})  # after a restart, nothing was read yet
    assert generations(rollout) == (1, None)
    rollout.read({}, {})
    assert rollout.orders.spaces == {}


def test_a_state_that_only_shards_have_prepared_is_not_put_in_force_however_long_it_takes():
    rollout, clock = started(A)
    rollout.read({"movies": state(2, prod=1)}, {})
    for _ in range(100):
        report(rollout, A, prepared=1)
        report(rollout, B, prepared=2, shard=True)
        clock.now += 10
        rollout.settle()
    assert generations(rollout) == (1, 2)
    report(rollout, A, prepared=2)
    assert generations(rollout) == (2, None)


def test_a_state_waits_for_the_shards():
    rollout, _ = started(A)
    rollout.read({"movies": state(2, prod=1)}, {})
    report(rollout, B, prepared=1, shard=True)
    report(rollout, A, prepared=2)
    assert generations(rollout) == (1, 2)
    report(rollout, B, prepared=2, shard=True)
    assert generations(rollout) == (2, None)
