"""MISB ST 0601, against packets worked by hand from the standard's examples."""

import struct

import numpy as np
import pytest

import geo_parts
from cpr_deploy.files import InputError
from cpr_deploy.geo import klv
from cpr_deploy.geo.load import load_telemetry

# The standard's own examples: tag, bytes, and what they stand for.
EXAMPLES = {
    5: ("71c2", "platform_yaw", 159.9744),
    6: ("fd3d", "platform_pitch", -0.4315251),
    7: ("08b8", "platform_roll", 3.405814),
    13: ("5595b66d", "latitude", 60.17682296),
    14: ("5b5360c4", "longitude", 128.42675904),
    15: ("c221", "altitude_msl", 14190.72),
    18: ("724a0a20", "gimbal_yaw", 160.71921147),
    19: ("87f84b86", "gimbal_pitch", -168.79232483),
    20: ("7dc55ece", "gimbal_roll", 176.86543764),
    75: ("c221", "altitude_ellipsoid", 14190.72),
}
TIME = (2, bytes.fromhex("0004603b2b8ea33a"))


@pytest.mark.parametrize("tag", EXAMPLES)
def test_examples_of_the_standard(tag):
    data, field, expected = EXAMPLES[tag]
    row = klv.parse_packet(geo_parts.klv_packet([TIME, (tag, bytes.fromhex(data))]))
    # The examples are values before coding: half a step of the code away at most.
    step = {">H": 0.31, ">h": 1.6e-3}.get(klv._TAGS[tag][1], 2e-7)
    assert row[field] == pytest.approx(expected, abs=step / 2)
    assert row["time"] == int.from_bytes(TIME[1], "big") / 1e6


def test_a_packet_by_hand():
    """Time stamp 1 us, heading 0x8000. Bytes at even places sum up to 0x65, at odd ones to 0xd8."""
    packet = bytes.fromhex(
        "060e2b34020b01010e01030101000000"  # even: 06 2b 02 01 0e 03 01 00 = 46, odd: 50
        "12"  # length 18, at an even place: 58
        "02080000000000000001"  # odd 02: 52; even 08, 01: 61
        "05028000"  # odd 05, 80: d7; even 02: 63
        "0102"  # odd 01: d8; even 02: 65
        "65d8"
    )
    assert klv.checksum(packet[:-2]) == 0x65D8
    assert klv.parse_packet(packet) == {
        "time": 1e-6,
        "platform_yaw": pytest.approx(180.00275, abs=1e-5),  # 0x8000 of 0xffff times 360
    }


def test_wrong_checksums_and_cut_packets_are_left_out():
    packet = geo_parts.klv_packet([TIME, (13, bytes.fromhex("5595b66d"))])
    assert klv.parse_packet(packet)
    for index in range(16, len(packet)):
        broken = bytearray(packet)
        broken[index] ^= 0x10
        assert klv.parse_packet(bytes(broken)) is None, index
        assert klv.parse_packet(packet[:index]) is None
    assert klv.parse_packet(geo_parts.klv_packet([(13, bytes.fromhex("5595b66d"))])) is None


def test_values_that_mean_none_and_full_range_angles():
    none = [(13, b"\x80\0\0\0"), (6, b"\x80\0"), (7, b"\x7f\xff")]
    row = klv.parse_packet(geo_parts.klv_packet([TIME, *none]))
    assert set(row) == {"time", "platform_roll"} and row["platform_roll"] == 50
    # Tag 90, -90..90 degrees, stands above tag 6, whichever comes first.
    full = (90, struct.pack(">i", round(-45 / 90 * (2**31 - 1))))
    for tags in ([full, (6, b"\x7f\xff")], [(6, b"\x7f\xff"), full]):
        row = klv.parse_packet(geo_parts.klv_packet([TIME, *tags]))
        assert row["platform_pitch"] == pytest.approx(-45, abs=1e-6)


def test_a_stream_with_anything_between_packets(tmp_path):
    packets = [
        geo_parts.klv_packet(
            [(2, struct.pack(">Q", second * 10**6)), *_place(second), (94, b"x" * 120)]
        )
        for second in range(4)
    ]
    assert packets[0][16] == 0x82, "a length of several bytes"
    packets[2] = packets[2][:60]  # cut in the middle, and the next one follows at once
    path = tmp_path / "a.klv"
    path.write_bytes(b"noise" + packets[0] + b"\0" * 9 + b"".join(packets[1:]) + klv.KEY + b"\x99")
    telemetry = load_telemetry(path)
    assert telemetry.time.tolist() == [0, 1, 3] and telemetry.damaged >= 1
    assert telemetry.clock == "utc" and not telemetry.gimbal_absolute
    np.testing.assert_allclose(telemetry.columns["latitude"], [1, 2, 4], atol=1e-7)


def _place(second):
    return [
        (13, struct.pack(">i", round((second + 1) / 90 * (2**31 - 1)))),
        (14, struct.pack(">i", round(12 / 180 * (2**31 - 1)))),
    ]


def test_garbage(tmp_path):
    path = tmp_path / "a.klv"
    rng = np.random.default_rng(0)
    for _ in range(200):
        path.write_bytes(klv.KEY + rng.bytes(60))
        with pytest.raises(InputError, match="no telemetry"):
            load_telemetry(path)
