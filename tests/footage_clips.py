"""Short made-up videos whose every frame can be told."""

from fractions import Fraction

import av
import numpy as np

HEIGHT, WIDTH = 48, 64
IDENTITY = bytes.fromhex("00010000" + "00" * 12 + "00010000" + "00" * 12 + "40000000")
# As a telephone held upright writes it: turn the picture by 90 degrees clockwise.
TURNED = bytes.fromhex("00000000" + "00010000" + "00" * 4 + "ffff0000" + "00" * 16 + "40000000")


def picture(seed):
    """A smooth random scene (HEIGHT, WIDTH, 3); those of two seeds have little in common."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH] / 24
    scene = np.zeros((HEIGHT, WIDTH, 3))
    for _ in range(12):
        fx, fy, phase = rng.uniform(-3, 3, 3)
        scene += rng.uniform(0, 1, 3) * np.cos(fx * x + fy * y + 9 * phase)[..., None]
    scene = (scene - scene.min()) / np.ptp(scene)
    return np.rint(255 * scene).astype(np.uint8)


def write_clip(path, seeds, *, times=None, codec="mpeg4", start=0.0, gop=4, rate=10):
    """A video whose frame k shows `picture(seeds[k])` at `times[k]` seconds (default: `rate`)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    times = [index / rate for index in range(len(seeds))] if times is None else times
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"g": str(gop), "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.bit_rate = 4_000_000
        if path.suffix != ".avi":
            stream.codec_context.time_base = Fraction(1, 1000)
        base = stream.codec_context.time_base or Fraction(1, rate)
        for seed, seconds in zip(seeds, times, strict=True):
            frame = av.VideoFrame.from_ndarray(picture(seed), format="rgb24")
            frame.pts, frame.time_base = round((start + seconds) / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def turn(path):
    """Marks the video of an MP4 file as to be shown turned by 90 degrees clockwise."""
    content = path.read_bytes()
    place = content.index(IDENTITY, content.index(b"tkhd"))
    path.write_bytes(content[:place] + TURNED + content[place + len(IDENTITY) :])
