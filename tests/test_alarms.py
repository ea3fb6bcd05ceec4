import json
import threading
import time

import pytest

from cpr_deploy.files import InputError
from cpr_deploy.tracking.alarms import AlarmSender, AlarmSettings, DeadLetters, DeliveryError

FAST = AlarmSettings(attempts=3, first_wait=0.01, longest_wait=0.1, queue=20, drain=0.5)


class Sink:
    """Takes alarms while it is up; `refuses` ids for good; `block` holds a delivery."""

    name = "sink"

    def __init__(self, up=True, refuses=()):
        self.up, self.refuses = up, set(refuses)
        self.got, self.tries = [], 0
        self.gate = threading.Event()
        self.gate.set()

    def deliver(self, alarm):
        self.gate.wait(5)
        self.tries += 1
        if alarm["id"] in self.refuses:
            raise DeliveryError("no", final=True)
        if not self.up:
            raise DeliveryError("sink is away")
        self.got.append(alarm["id"])


@pytest.fixture
def letters(tmp_path):
    return DeadLetters(tmp_path / "dead.jsonl")


def until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_alarms_arrive_in_order(letters):
    sink = Sink()
    sender = AlarmSender(sink, letters, FAST)
    for number in range(10):
        sender.send({"id": number})
    sender.close()
    assert sink.got == list(range(10)) and len(letters) == 0 and not letters.path.exists()


def test_a_short_failure_is_tried_again(letters):
    sink = Sink()
    failures = [2]
    deliver = sink.deliver

    def flaky(alarm):
        if failures[0]:
            failures[0] -= 1
            raise DeliveryError("busy")
        deliver(alarm)

    sink.deliver = flaky
    sender = AlarmSender(sink, letters, FAST)
    sender.send({"id": 1})
    until(lambda: sink.got == [1])
    sender.close()
    assert len(letters) == 0


def test_down_for_long_nothing_is_lost_and_all_come_when_it_is_back(letters):
    """As an hour, with waits of a hundredth."""
    sink = Sink(up=False)
    sender = AlarmSender(sink, letters, FAST)
    for number in range(15):
        sender.send({"id": number})
        time.sleep(0.01)
    until(lambda: len(letters) == 15)
    tries = sink.tries
    time.sleep(0.5)
    assert tries < sink.tries <= tries + 10  # asked now and then, not in a loop
    sink.up = True
    until(lambda: len(sink.got) == 15)
    sender.send({"id": 15})
    sender.close()
    assert sorted(sink.got) == list(range(16)) and len(letters) == 0


def test_dead_letters_of_an_earlier_run_are_sent(letters):
    letters.add({"id": 7}, "away")
    sink = Sink()
    sender = AlarmSender(sink, letters, FAST)
    until(lambda: sink.got == [7])
    sender.close()
    assert not letters.path.exists()


def test_a_run_of_a_moment_sends_dead_letters_first(letters):
    letters.add({"id": 1}, "away")
    letters.add({"id": 2}, "away")
    sink = Sink()
    sender = AlarmSender(sink, letters, FAST)
    sender.send({"id": 3})
    sender.close()
    assert sink.got == [1, 2, 3] and not letters.path.exists()


def test_the_end_of_a_run_is_a_last_try(letters):
    """The receiver comes back after it was asked, and the run ends before it is asked again."""
    sink = Sink(up=False)
    patient = AlarmSettings(attempts=1, first_wait=0.01, longest_wait=60.0, drain=0.5)
    sender = AlarmSender(sink, letters, patient)
    sender.send({"id": 1})
    sender.send({"id": 2})
    until(lambda: len(letters) == 2)
    sink.up = True
    sender.close()
    assert sink.got == [1, 2] and not letters.path.exists()


def test_many_dead_letters_do_not_hold_up_the_end(letters):
    for number in range(100):
        letters.add({"id": number}, "away")
    sink = Sink()
    deliver = sink.deliver

    def slow(alarm):
        time.sleep(0.05)
        deliver(alarm)

    sink.deliver = slow
    sender = AlarmSender(sink, letters, FAST)
    begin = time.monotonic()
    sender.close()
    assert time.monotonic() - begin < 3.0
    assert sink.got == list(range(len(sink.got))) and 0 < len(sink.got) == 100 - len(letters)


def test_send_does_not_wait_for_a_receiver_that_hangs(letters):
    sink = Sink()
    sink.gate.clear()
    sender = AlarmSender(sink, letters, FAST)
    begin = time.monotonic()
    for number in range(60):
        sender.send({"id": number})
    assert time.monotonic() - begin < 2.0
    assert len(letters) >= 60 - FAST.queue - 1  # the queue holds no more
    sink.gate.set()
    until(lambda: len(sink.got) == 60)
    sender.close()
    assert sorted(sink.got) == list(range(60))


def test_what_waits_at_the_end_becomes_dead_letters(letters):
    sink = Sink(up=False)
    sender = AlarmSender(sink, letters, FAST)
    for number in range(8):
        sender.send({"id": number})
    begin = time.monotonic()
    sender.close()
    assert time.monotonic() - begin < 3.0
    assert [letter["alarm"]["id"] for letter in letters._read()] == list(range(8))
    assert sender.failed == 8 and sender.delivered == 0


def test_a_receiver_that_hangs_does_not_hold_up_the_end(letters):
    sink = Sink()
    sink.gate.clear()
    sender = AlarmSender(sink, letters, FAST)
    for number in range(5):
        sender.send({"id": number})
    until(lambda: sender._queue.qsize() == 4)
    begin = time.monotonic()
    sender.close()
    assert time.monotonic() - begin < 2.0
    assert [letter["alarm"]["id"] for letter in letters._read()] == list(range(5))
    sink.gate.set()


def test_a_slow_replay_does_not_hold_up_the_end(letters):
    for number in range(40):
        letters.add({"id": number}, "away")
    sink = Sink()
    deliver = sink.deliver

    def slow(alarm):
        time.sleep(0.1)
        deliver(alarm)

    sink.deliver = slow
    sender = AlarmSender(sink, letters, FAST)
    until(lambda: len(sink.got) >= 2)
    sender.close()
    until(lambda: not sender._thread.is_alive())
    assert len(sink.got) < 10
    assert [letter["alarm"]["id"] for letter in letters._read()] == list(range(len(sink.got), 40))


def test_what_the_receiver_refuses_is_kept_and_not_sent_again(letters):
    sink = Sink(refuses=[1])
    sender = AlarmSender(sink, letters, FAST)
    for number in range(3):
        sender.send({"id": number})
    until(lambda: len(letters) == 1 and sink.got == [0, 2])
    time.sleep(0.4)
    assert sink.tries == 3
    sender.close()
    sink.refuses.clear()
    assert letters.replay(sink.deliver) == (0, None)
    assert letters.replay(sink.deliver, refused=True) == (1, None) and sink.got[-1] == 1


def test_a_full_disk_loses_no_alarm(letters, monkeypatch):
    sink, full = Sink(up=False), [True]
    add = letters.add

    def add_or_fail(*args, **options):
        if full[0]:
            raise OSError(28, "No space left on device")
        add(*args, **options)

    monkeypatch.setattr(letters, "add", add_or_fail)
    sender = AlarmSender(sink, letters, FAST)
    sender.send({"id": 1})
    until(lambda: sink.tries >= 3)
    full[0] = False
    until(lambda: len(letters) == 1)
    sender.close()


def test_letters_that_come_during_a_replay_stay(letters):
    letters.add({"id": 1}, "x")
    letters.add({"id": 2}, "x")

    def deliver(alarm):
        if alarm["id"] == 2:
            raise DeliveryError("away again")
        letters.add({"id": 3}, "meanwhile")

    assert letters.replay(deliver) == (1, "away again")
    assert [letter["alarm"]["id"] for letter in letters._read()] == [2, 3]


def test_a_line_cut_by_a_crash_harms_no_other(letters):
    letters.add({"id": 1}, "x")
    with open(letters.path, "ab") as file:
        file.write(b'{"failed_at": 17.0, "reason": "x", "ala')
    again = DeadLetters(letters.path)
    again.add({"id": 2}, "x")
    assert [letter["alarm"]["id"] for letter in again._read()] == [1, 2]


@pytest.mark.parametrize("text", ["hello\n", '{"a": 1}\n', "[1]\n", '{"alarm": 3}\n'])
def test_another_file_is_not_taken_for_dead_letters(tmp_path, text):
    path = tmp_path / "mine.txt"
    path.write_text(text)
    with pytest.raises(InputError, match="line 1 is no alarm"):
        DeadLetters(path)
    assert path.read_text() == text


def test_letters_tell_when_and_why(letters):
    letters.add({"id": 1, "rule": "r"}, "host is not reached")
    letter = json.loads(letters.path.read_text())
    assert letter["alarm"] == {"id": 1, "rule": "r"} and "not reached" in letter["reason"]
    assert abs(letter["failed_at"] - time.time()) < 60


@pytest.mark.parametrize(
    "bad", [{"attempts": 0}, {"queue": 0}, {"first_wait": 0}, {"longest_wait": 0.1}, {"drain": -1}]
)
def test_bad_settings(bad):
    with pytest.raises(InputError, match="alarms: "):
        AlarmSettings(**bad)
