import pytest

from cpr_deploy.files import InputError
from cpr_deploy.stream_health import HealthSettings, StreamHealth


class Camera:
    """Gives frames to a health watch at times that a test chooses."""

    def __init__(self, **settings):
        self.health = StreamHealth(HealthSettings(**settings), now=100.0)
        self.now, self.index, self.events = 100.0, 0, []

    def frame(self, after, *, same=False, size=(640, 480), damaged=0):
        self.now += after
        found = self.health.on_frame(self.index, self.now, same=same, size=size, damaged=damaged)
        self.events += found
        self.index += 1

    def tick(self, after):
        self.now += after
        self.events += self.health.on_tick(self.index, self.now)

    def told(self):
        return [(event.type, event.frame, dict(event.fields)) for event in self.events]


def test_silence_is_told_again_and_again_and_ends_with_a_gap():
    camera = Camera(stale_after=5.0)
    for _ in range(10):
        camera.frame(0.1)
    for _ in range(23):
        camera.tick(0.5)
    camera.frame(0.5)
    assert camera.told() == [
        ("stale", 10, {"seconds": 5.0}),
        ("stale", 10, {"seconds": 10.0}),
        ("gap", 10, {"seconds": 12.0}),
    ]
    assert camera.health.blind(camera.now) == pytest.approx(12.0)
    camera.frame(0.1)
    assert len(camera.events) == 3


def test_a_source_that_never_comes_is_told_too():
    camera = Camera(stale_after=5.0)
    camera.tick(4.9)
    assert camera.told() == []
    camera.tick(0.1)
    assert camera.told() == [("stale", 0, {"seconds": 5.0})]
    assert camera.health.blind(camera.now + 1) == pytest.approx(6.0)


def test_a_slow_camera_has_no_gaps():
    camera = Camera(gap_after=1.0)
    for _ in range(20):
        camera.frame(2.0)
    # Whether the first pause is one or the rate of the source, nobody can know.
    assert [kind for kind, *_ in camera.told()] == ["gap"]
    camera.frame(5.9)
    camera.frame(6.1)
    assert [kind for kind, *_ in camera.told()] == ["gap", "gap"]


def test_frozen_pictures_until_they_move():
    camera = Camera(frozen_after=10.0)
    camera.frame(0.0)
    for _ in range(49):
        camera.frame(0.5, same=True)
    assert camera.told() == [
        ("frozen", 20, {"seconds": 10.0}),
        ("frozen", 40, {"seconds": 20.0}),
    ]
    assert camera.health.frozen
    camera.frame(0.5)
    assert not camera.health.frozen
    for _ in range(19):
        camera.frame(0.5, same=True)
    assert len(camera.events) == 2


def test_resolution_and_damage():
    camera = Camera()
    camera.frame(0.1, damaged=2)
    camera.frame(0.1, damaged=2, size=(320, 240))
    camera.frame(0.1, damaged=5, size=(320, 240))
    sizes = {"width": 320, "height": 240, "old_width": 640, "old_height": 480}
    assert camera.told() == [
        ("damaged", 0, {"count": 2}),
        ("resolution", 1, sizes),
        ("damaged", 2, {"count": 3}),
    ]


def test_overflow_needs_seconds_in_a_row():
    camera = Camera(max_fps=100)
    for _ in range(230):  # a burst, as at the beginning of a stream
        camera.frame(0.005)
    for _ in range(100):
        camera.frame(0.04)
    assert not camera.health.overflow
    for _ in range(1000):
        camera.frame(0.005)
    assert camera.health.overflow
    camera.health.reopened()
    assert not camera.health.overflow


def test_settings_are_checked():
    with pytest.raises(InputError, match="stale_after -1"):
        HealthSettings(stale_after=-1)
