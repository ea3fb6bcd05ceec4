"""DJI's subtitles, in the layouts that are in the field."""

import numpy as np
import pytest

import geo_parts
from cpr_deploy.files import InputError
from cpr_deploy.geo.dji_srt import parse_cue, read_srt
from cpr_deploy.geo.load import load_telemetry

LAYOUTS = {
    # Mavic 3 Enterprise, Matrice 30
    "brackets with gimbal": (
        '<font size="28">FrameCnt: 0, DiffTime: 33ms\n2026-07-08 16:12:57.018\n[focal_len: 40.00]'
        " [dzoom_ratio: 1.00], [latitude: 31.229247] [longitude: 121.634603] [rel_alt: 79.969"
        " abs_alt: 96.474] [gb_yaw: -67.6 gb_pitch: -30.0 gb_roll: 0.1] </font>",
        {
            "latitude": 31.229247,
            "longitude": 121.634603,
            "altitude_relative": 79.969,
            "altitude_msl": 96.474,
            "gimbal_yaw": -67.6,
            "gimbal_pitch": -30.0,
            "gimbal_roll": 0.1,
        },
    ),
    # Mini 3, Mini 4
    "brackets without angles": (
        "[iso : 2700] [shutter : 1/30.0] [fnum : 170] [latitude: 59.302335] [longitude: 18.203059]"
        " [rel_alt: 1.300 abs_alt: 132.860] [ct : 5300]",
        {
            "latitude": 59.302335,
            "longitude": 18.203059,
            "altitude_relative": 1.3,
            "altitude_msl": 132.86,
        },
    ),
    # Mavic 2: a misspelt key, and one altitude that does not say from where it counts
    "one altitude": (
        "[iso : 110] [latitude : 40.1] [longtitude : -3.6] [altitude: 705.7]",
        {"latitude": 40.1, "longitude": -3.6, "altitude": 705.7},
    ),
    # Mavic 2 Enterprise
    "angles of the drone": (
        "[latitude: -36.885326] [longtitude: 174.697242] [altitude: 28.736000] [Drone: Yaw:-146.0,"
        " Pitch:-0.6, Roll:1.3]",
        {
            "latitude": -36.885326,
            "longitude": 174.697242,
            "altitude": 28.736,
            "platform_yaw": -146.0,
            "platform_pitch": -0.6,
            "platform_roll": 1.3,
        },
    ),
    # Matrice 300 with H20T
    "angles of drone and gimbal": (
        "[latitude: 41.3] [longitude: -81.3] [rel_alt: 50.6 abs_alt: 300] [Drone: Yaw:1.9,"
        " Pitch:-3.1, Roll:1.5] [Gimbal: Yaw:10.0, Pitch:-45.0, Roll:0.0]",
        {
            "latitude": 41.3,
            "longitude": -81.3,
            "altitude_relative": 50.6,
            "altitude_msl": 300.0,
            "platform_yaw": 1.9,
            "platform_pitch": -3.1,
            "platform_roll": 1.5,
            "gimbal_yaw": 10.0,
            "gimbal_pitch": -45.0,
            "gimbal_roll": 0.0,
        },
    ),
    # Mavic Mini: longitude first, the third number counts satellites
    "line": (
        "F/2.8, SS 206.14, ISO 150, EV 0, GPS (-82.6669, 27.7716, 10), D 2.80m, H 12.50m,"
        " H.S 0.00m/s, V.S 0.00m/s",
        {"latitude": 27.7716, "longitude": -82.6669, "altitude_relative": 12.5},
    ),
    # Phantom 4 RTK: pitch, roll, yaw
    "line with RTK and angles": (
        "F/6.3, SS 60, ISO 100, EV 0, RTK (120.083799, 30.213635, 28), HOME (120.084146,"
        " 30.214243, 103.55m), D 75.36m, H 76.19m, H.S 0.30m/s, V.S 0.00m/s, F.PRY (-5.3°, 2.1°,"
        " 28.3°), G.PRY (-40.0°, 0.0°, 28.2°)",
        {
            "latitude": 30.213635,
            "longitude": 120.083799,
            "altitude_relative": 76.19,
            "platform_pitch": -5.3,
            "platform_roll": 2.1,
            "platform_yaw": 28.3,
            "gimbal_pitch": -40.0,
            "gimbal_roll": 0.0,
            "gimbal_yaw": 28.2,
        },
    ),
    # Mavic Pro
    "oldest": (
        "HOME(149.0251,-20.2532) 2017.08.05 14:11:51\nGPS(149.0251,-20.2533,16) BAROMETER:1.9\n"
        "ISO:100 Shutter:60 EV: Fnum:F2.2",
        {"latitude": -20.2533, "longitude": 149.0251, "altitude_relative": 1.9},
    ),
    # Matrice 300: the third number has a unit, and latitude is first
    "latitude first": (
        "2022.06.21 16:06:17\nGPS(36.6146,-6.1120,0.0M) BAROMETER:79.8M",
        {"latitude": 36.6146, "longitude": -6.112, "altitude_relative": 79.8},
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name):
    text, expected = LAYOUTS[name]
    assert parse_cue(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "[iso: 100] [fnum: 2.8]", "HOME(1.0,2.0)", "Hello"])
def test_text_without_a_position(text):
    assert parse_cue(text) == {}


def test_times_and_damaged_cues(tmp_path):
    path = tmp_path / "a.SRT"
    good = LAYOUTS["brackets with gimbal"][0]
    text = geo_parts.srt([(0, good), (0.5, "no telemetry"), (3661.25, good)])
    # The seconds of some files run to 60, and lines may end as on Windows.
    text += "4\r\n00:59:60,5 --> 00:59:60,6\r\n" + good + "\r\n"
    path.write_text(text, newline="")
    telemetry = load_telemetry(path)
    np.testing.assert_allclose(telemetry.time, [0, 3661.25, 3600.5])
    assert telemetry.damaged == 1 and telemetry.clock == "video" and telemetry.gimbal_absolute
    assert telemetry.columns["gimbal_yaw"].tolist() == [-67.6] * 3


def test_no_fix_is_no_place_off_africa(tmp_path):
    path = tmp_path / "a.srt"
    cues = [(0, geo_parts.bracket_cue(0, 0, 0)), (1, geo_parts.bracket_cue(54, 12, 5))]
    path.write_text(geo_parts.srt(cues))
    assert np.isnan(read_srt(path).columns["latitude"]).tolist() == [True, False]


@pytest.mark.parametrize("content", ["", "1\n00:00:01,000 --> 00:00:02,000\nHello\n", "\0\1\2"])
def test_files_without_telemetry(tmp_path, content):
    path = tmp_path / "a.srt"
    path.write_text(content)
    with pytest.raises(InputError, match="no telemetry"):
        read_srt(path)


def test_a_latitude_that_is_none(tmp_path):
    path = tmp_path / "a.srt"
    path.write_text(geo_parts.srt([(0, "GPS (20.0, 96.5, 10), H 3.0m")]))
    with pytest.raises(InputError, match=r"sample 1 has latitude 96\.5"):
        read_srt(path)
