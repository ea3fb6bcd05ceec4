"""What arms ask for, and how a stream reaches the queue, by a picture of a few targets."""

import numpy as np
import pytest

from cpr_deploy.picking.pick_desk import PickDesk
from cpr_deploy.picking.pick_queue import PickQueue, QueueSettings
from cpr_deploy.picking.queue_feed import QueueFeed
from cpr_deploy.picking.results import PickResult, PickTarget, Refusal, RefusalCode

START = 1_700_000_000.0


class Clock:
    now = START

    def __call__(self):
        return self.now


def target(number, stamp):
    return PickTarget(
        id=f"{stamp:.3f}-{number}",
        stamp=stamp,
        frame_id="base",
        position=np.array([0.2 * number, 0.0, 0.1]),
        approach=np.array([0.0, 0.0, -1.0]),
        covariance=1e-6 * np.eye(3),
        confidence=0.9,
        score=0.9,
        label=0,
        class_name="bolt",
        image_point=(1.0, 2.0),
        detected_point=(1.0, 2.0),
        depth=0.8,
        clearance=0.2,
    )


def seen(stamp, count=3):
    return PickResult(stamp, [target(number, stamp) for number in range(count)], [])


def refused(stamp, code):
    return PickResult(stamp, [], [Refusal(code, "why", stamp)], live=False)


@pytest.fixture
def desk():
    desk = PickDesk(PickQueue(QueueSettings(hold_seconds=2.0)), Clock())
    desk.queue.update(seen(START))
    return desk


def test_an_arm_need_not_say_what_it_holds(desk):
    taken = desk.take("left")
    assert taken["ok"] and taken["pose"]["translation"] == taken["target"]["position"]
    assert desk.acknowledge("right")["reason"] == "right holds nothing"
    assert desk.acknowledge("left") == {"ok": True, "id": taken["target"]["id"]}
    assert desk.acknowledge("left")["code"] == "unknown_id"


def test_a_target_by_its_id(desk):
    first, second = desk.take("left"), desk.take("right")
    assert desk.reject("left", first["target"]["id"], "no grip")["ok"]
    assert "no grip" in desk.acknowledge("left", first["target"]["id"])["reason"]
    assert desk.acknowledge("other", second["target"]["id"])["ok"]
    assert desk.acknowledge("right")["code"] == "unknown_id"


def test_an_arm_that_is_too_late(desk):
    desk.take("left")
    desk.clock.now += 3
    late = desk.acknowledge("left")
    assert (late["ok"], late["code"]) == (False, "unknown_id") and "more than 2 s" in late["reason"]


def test_health(desk):
    desk.take("left")
    health = desk.health()
    assert health["ok"] and health["targets"] == 3 and health["held"][0]["arm"] == "left"
    desk.clock.now += 1
    assert not desk.health()["ok"] and desk.take("right")["code"] == "stale"


# --- from a stream to the queue -------------------------------------------------------------------


@pytest.fixture
def feed():
    return QueueFeed(PickQueue())


def targets(feed, now):
    return feed.queue.status(now)["targets"]


def test_what_may_befall_single_frames(feed):
    """A frame without depth takes nothing away until the last good one is too old."""
    feed.add(seen(START), START)
    for number in range(1, 12):
        now = START + 0.05 * number
        feed.add(refused(now, RefusalCode.UNSYNCHRONISED), now, passing=True)
        status = feed.queue.status(now)
        assert status["targets"] == (3 if number <= 10 else 0)
    assert status["refusal"]["code"] == "unsynchronised"


def test_what_must_not_befall_any_frame(feed):
    feed.add(seen(START), START)
    feed.add(refused(START + 0.05, RefusalCode.FROZEN), START + 0.05)
    assert feed.queue.status(START + 0.05)["refusal"]["code"] == "frozen"
    feed.add(seen(START + 0.1, 2), START + 0.1)
    assert targets(feed, START + 0.1) == 2


def test_frames_a_little_out_of_order_are_passed_over(feed):
    feed.add(seen(START + 0.1, 1), START + 0.1)
    feed.add(seen(START, 3), START + 0.1)
    assert targets(feed, START + 0.1) == 1


def test_time_that_begins_anew(feed):
    feed.add(seen(START + 60, 1), START + 60)
    feed.add(seen(START, 3), START)
    status = feed.queue.status(START)
    assert (status["targets"], status["age"]) == (3, 0.0)
    # From there on as ever.
    feed.add(seen(START + 0.1, 2), START + 0.1)
    feed.add(seen(START + 0.05, 3), START + 0.1)
    assert targets(feed, START + 0.1) == 2


def test_one_frame_of_a_wrong_clock(feed):
    feed.add(seen(START), START)
    feed.add(refused(START + 3600, RefusalCode.STALE), START + 0.05)
    assert targets(feed, START + 0.05) == 0
    feed.add(seen(START + 0.1), START + 0.1)
    assert targets(feed, START + 0.1) == 3
