import dataclasses
import itertools
import threading

import numpy as np
import pytest

from cpr_deploy.files import InputError
from cpr_deploy.picking.pick_queue import PickQueue, QueueSettings
from cpr_deploy.picking.results import PickResult, PickTarget, Refusal, RefusalCode


def target(x, stamp=100.0, score=0.9):
    return PickTarget(
        id=f"{stamp}-{x}",
        stamp=stamp,
        frame_id="base",
        position=np.array([x, 0.0, 0.5]),
        approach=np.array([0.0, 0, -1]),
        covariance=np.eye(3) * 1e-6,
        confidence=score,
        score=score,
        label=0,
        class_name="box",
        image_point=(10.0, 10.0),
        detected_point=(10.0, 10.0),
        depth=0.5,
        clearance=0.1,
    )


def frame(stamp, *xs, live=True):
    refusals = [] if live else [Refusal(RefusalCode.FROZEN, "frozen", stamp)]
    return PickResult(stamp, [target(x, stamp) for x in xs], refusals, live)


def queue(*xs, stamp=100.0, **settings):
    made = PickQueue(QueueSettings(**settings))
    made.update(frame(stamp, *xs))
    return made


def x_of(answer):
    return answer.position[0] if isinstance(answer, PickTarget) else answer.code


def test_targets_in_order_one_to_each_arm():
    pending = queue(0.0, 1.0, 2.0)
    first = pending.take(100.1, "left")
    assert x_of(first) == 0.0
    assert x_of(pending.take(100.1, "left")) == "arm_busy"
    assert x_of(pending.take(100.1, "right")) == 1.0
    assert pending.acknowledge(first.id, now=100.2) is None
    assert x_of(pending.take(100.2, "left")) == 2.0
    assert x_of(pending.take(100.2, "third")) == "all_taken"


def test_two_arms_never_hold_one_object():
    """The same object has another id in each frame, and moves a little."""
    pending = queue(0.0, exclusion=0.05)
    pending.take(100.1, "left")
    for step in range(1, 5):
        pending.update(frame(100.0 + step / 10, 0.01 * step, 0.2))
        answer = pending.take(100.0 + step / 10, "right")
        assert x_of(answer) == 0.2
        pending.acknowledge(answer.id, now=100.0 + step / 10)


def test_what_was_picked_is_not_handed_out_from_an_older_frame():
    pending = queue(0.0)
    held = pending.take(100.0, "left")
    pending.acknowledge(held.id, now=102.0)
    pending.update(frame(101.9, 0.0))  # taken before the object was gone
    assert x_of(pending.take(102.1, "left")) == "all_taken"
    pending.update(frame(102.1, 0.0))  # it is there still, or again
    assert x_of(pending.take(102.2, "left")) == 0.0


def test_a_rejected_place_is_left_alone_for_a_while():
    pending = queue(0.0, 1.0, reject_seconds=5.0)
    held = pending.take(100.0, "left")
    assert pending.reject(held.id, "no grip", now=100.2) is None
    assert x_of(pending.take(100.2, "left")) == 1.0
    for now, expected in ((104.0, "all_taken"), (105.3, 0.0)):
        pending.update(frame(now, 0.0))
        assert x_of(pending.take(now, "right")) == expected


def test_time_out_frees_the_target_and_tells_the_late_arm():
    pending = queue(0.0, hold_seconds=10.0)
    held = pending.take(100.0, "left")
    pending.update(frame(109.9, 0.0))
    assert x_of(pending.take(109.9, "right")) == "all_taken"
    pending.update(frame(110.2, 0.0))
    # Only a frame that is newer than the time-out shows whether the object is there.
    assert x_of(pending.take(110.3, "right")) == "all_taken"
    pending.update(frame(110.4, 0.0))
    assert x_of(pending.take(110.4, "right")) == 0.0
    late = pending.acknowledge(held.id, now=110.5)
    assert late.code == "unknown_id" and "held for more than 10 s" in late.reason


def test_two_frames_of_one_stamp_do_not_lose_a_hold():
    """Their targets have the same ids, whatever the order in which they were found."""
    pending = queue(0.0)
    held = pending.take(100.0, "left")
    other = dataclasses.replace(target(1.0), id=held.id)
    pending.update(PickResult(100.0, [other], []))
    assert x_of(pending.take(100.1, "right")) == "all_taken"
    pending.update(frame(100.2, 0.0, 1.0))
    assert x_of(pending.take(100.2, "right")) == 1.0
    assert pending.acknowledge(held.id, now=100.3) is None


def test_dead_man():
    pending = PickQueue(QueueSettings(max_age=0.5))
    assert x_of(pending.take(100.0, "left")) == "stale"
    pending.update(frame(100.0, 0.0))
    assert x_of(pending.take(100.6, "left")) == "stale"
    assert x_of(pending.take(99.8, "left")) == "stale"  # the clock was set back
    pending.update(frame(100.7, 0.0, live=False))
    assert x_of(pending.take(100.7, "left")) == "frozen"
    assert pending.status(100.7)["targets"] == 0
    # A refused frame stops picks at once, even one with an old stamp; a new live one brings them.
    pending.update(frame(101.0, 0.0))
    pending.update(frame(99.0, 0.0, live=False))
    assert x_of(pending.take(101.0, "left")) == "frozen"
    pending.update(frame(101.1, 0.0))
    assert x_of(pending.take(101.1, "left")) == 0.0


def test_older_frames_that_come_late_are_passed_over():
    pending = queue(0.0, stamp=100.2)
    pending.update(frame(100.1, 5.0))
    assert x_of(pending.take(100.3, "left")) == 0.0


def test_no_target_says_how_many_were_refused():
    pending = PickQueue()
    pending.update(PickResult(100.0, [], [Refusal(RefusalCode.TOO_STEEP, "steep")]))
    answer = pending.take(100.0, "left")
    assert answer.code == "no_target" and "1 points were refused" in answer.reason


def test_an_order_of_the_arms_own():
    pending = queue(0.0, 1.0, 2.0)
    nearest = pending.take(100.0, "right", order=lambda place: abs(place.position[0] - 2))
    assert x_of(nearest) == 2.0


def test_unknown_ids():
    pending = queue(0.0)
    assert pending.acknowledge("nonsense", now=100.0).code == "unknown_id"
    held = pending.take(100.0, "left")
    pending.reject(held.id, "slipped", now=100.0)
    again = pending.acknowledge(held.id, now=100.0)
    assert again.code == "unknown_id" and "rejected: slipped" in again.reason


def test_status():
    pending = queue(0.0, 1.0)
    held = pending.take(100.0, "left")
    pending.acknowledge(pending.take(100.1, "right").id, now=100.2)
    assert pending.status(100.3) == {
        "age": 0.3,
        "refusal": None,
        "targets": 2,
        "held": [{"id": held.id, "arm": "left", "seconds": 0.3}],
        "handed_out": 2,
        "acknowledged": 1,
        "rejected": 0,
        "timed_out": 0,
    }


def test_many_arms_at_once_share_no_target():
    pending = queue(*np.arange(40.0))
    taken, barrier = [], threading.Barrier(8)

    def work(arm):
        barrier.wait()
        while isinstance(answer := pending.take(100.1, arm), PickTarget):
            taken.append(answer.id)
            pending.acknowledge(answer.id, now=100.1)

    threads = [threading.Thread(target=work, args=(f"arm {n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == 40


def test_random_sequences_keep_the_rules():
    """Held places stay apart, an arm holds one target at most, nothing comes of a stale frame."""
    rng = np.random.default_rng(0)
    pending = PickQueue(QueueSettings(hold_seconds=3.0, reject_seconds=1.0, exclusion=0.3))
    held, now, stamp = {}, 0.0, -1.0
    for _ in range(3000):
        now += rng.exponential(0.1)
        held = {arm: (at, since) for arm, (at, since) in held.items() if now - since <= 3.0}
        action, arm = rng.integers(4), f"arm {rng.integers(3)}"
        if action == 0:
            stamp = now
            pending.update(frame(stamp, *rng.choice(12, 5, replace=False) * 0.2))
        elif action < 3:
            answer = pending.take(now, arm)
            if isinstance(answer, PickTarget):
                assert arm not in held and now - stamp <= 0.5
                held[arm] = (answer, now)
            else:
                assert (answer.code == "stale") == (now - stamp > 0.5)
        elif arm in held:
            at, _ = held.pop(arm)
            end = pending.acknowledge if rng.random() < 0.5 else pending.reject
            assert end(at.id, now=now) is None
        for (one, _), (other, _) in itertools.combinations(held.values(), 2):
            assert np.linalg.norm(one.position - other.position) >= 0.3


def test_bad_settings():
    with pytest.raises(InputError, match="hold_seconds -1"):
        QueueSettings(hold_seconds=-1)
