import threading

import pytest

from cpr_deploy.background import Background


def test_jobs_are_done_in_order_by_another_thread():
    done = []
    background = Background("test", room=3)
    for number in range(50):
        background.put(lambda number=number: done.append((number, threading.get_ident())))
    background.close()
    background.close()
    assert [number for number, _ in done] == list(range(50))
    assert {thread for _, thread in done}.isdisjoint({threading.get_ident()})


def test_jobs_beyond_the_room_are_left_out():
    go, begun, done = threading.Event(), threading.Event(), []

    def wait():
        begun.set()
        go.wait(10)

    background = Background("test", room=2, drop=True)
    background.put(wait)
    assert begun.wait(10)
    for number in range(5):
        background.put(lambda number=number: done.append(number))
    go.set()
    background.close()
    assert done == [0, 1] and background.dropped == 3


def test_a_full_queue_waits():
    go, done = threading.Event(), []
    background = Background("test", room=1)
    background.put(lambda: go.wait(10))
    timer = threading.Timer(0.5, go.set)
    timer.start()
    for number in range(3):
        background.put(lambda number=number: done.append((number, go.is_set())))
    background.close()
    assert done == [(0, True), (1, True), (2, True)] and not background.dropped


@pytest.mark.parametrize("drop", [False, True])
def test_an_error_reaches_the_caller_once(drop):
    def fail():
        raise OSError("full")

    background = Background("test", room=1, drop=drop)
    background.put(fail)
    with pytest.raises(OSError, match="full"):
        for _ in range(100):
            background.put(lambda: threading.Event().wait(0.01))
        background.close()
    background.close()
