"""EXIF and XMP of stills by DJI, Autel and Parrot."""

import numpy as np
import pytest

import geo_parts
from cpr_deploy.files import InputError
from cpr_deploy.geo.load import load_stills
from cpr_deploy.geo.stills import read_still

# 54 degrees 10' 43.5" north, 12 degrees 4' 48" west, 61.5 m below sea level.
GPS = {1: "N", 2: (54, 10, 43.5), 3: "W", 4: (12, 4, 48), 5: b"\x01", 6: 61.5}


def read(tmp_path, xmp=b"", gps=None):
    path = tmp_path / "a.jpg"
    geo_parts.write_still(path, xmp, gps)
    return read_still(path)


def test_exif(tmp_path):
    row = read(tmp_path, gps={**GPS, 7: (9, 30, 15.5), 29: "2026:06:01"})
    assert row.pop("time") == 20605 * 86400 + 34215.5
    assert row == pytest.approx(
        {
            "latitude": 54 + 10 / 60 + 43.5 / 3600,
            "longitude": -(12 + 4 / 60 + 48 / 3600),
            "altitude_msl": -61.5,
            "width": 96,
            "height": 54,
            "orientation": 1,
        }
    )
    assert read(tmp_path, gps={**GPS, 5: b"\x02"})["altitude_ellipsoid"] == 61.5


DJI = {
    "GpsLatitude": "+54.1787500",
    "GpsLongtitude": "-12.0800000",
    "AbsoluteAltitude": "+72.50",
    "RelativeAltitude": "+60.10",
    "GimbalYawDegree": "-67.60",
    "GimbalPitchDegree": "-90.00",
    "GimbalRollDegree": "+0.00",
    "FlightYawDegree": "-66.00",
    "FlightPitchDegree": "+4.00",
    "FlightRollDegree": "-1.00",
}


def test_a_picture_that_is_shown_turned_tells_so(tmp_path):
    geo_parts.write_still(tmp_path / "a.jpg", orientation=6)
    found = read_still(tmp_path / "a.jpg")
    assert (found["width"], found["height"], found["orientation"]) == (96, 54, 6)


def test_dji(tmp_path):
    row = read(tmp_path, geo_parts.still_xmp(DJI), GPS)
    assert row["latitude"] == 54.17875 and row["longitude"] == -12.08, "more digits than EXIF"
    assert row["altitude_relative"] == 60.1 and row["altitude_msl"] == 72.5
    assert [row[f"gimbal_{axis}"] for axis in ("yaw", "pitch", "roll")] == [-67.6, -90, 0]
    assert [row[f"platform_{axis}"] for axis in ("yaw", "pitch", "roll")] == [-66, 4, -1]
    row = read(tmp_path, geo_parts.still_xmp({**DJI, "AltitudeType": "RtkAlt"}), None)
    assert row["altitude_ellipsoid"] == 72.5 and "altitude_msl" not in row


def test_autel_and_parrot(tmp_path):
    autel = {"GimbalYawDegree": "10", "GimbalPitchDegree": "-45", "GimbalRollDegree": "0"}
    row = read(
        tmp_path, geo_parts.still_xmp(autel, "http://www.autelrobotics.com/drone/1.0/", "drone")
    )
    assert (row["gimbal_yaw"], row["gimbal_pitch"]) == (10, -45)
    parrot = {"CameraYawDegree": "176.31", "CameraPitchDegree": "-78.36", "CameraRollDegree": "-.5"}
    row = read(
        tmp_path,
        geo_parts.still_xmp(parrot, "http://www.parrot.com/drone-parrot/1.0/", "drone-parrot"),
    )
    assert (row["gimbal_yaw"], row["gimbal_pitch"]) == (176.31, -78.36)


def test_pix4d_counts_pitch_from_straight_down(tmp_path):
    """Older Autel and senseFly; where a vendor's own field is there too, that one counts."""
    pix4d = {"Yaw": "10", "Pitch": "30", "Roll": "359/2"}
    row = read(tmp_path, geo_parts.still_xmp(pix4d, "http://pix4d.com/camera/1.0", "Camera"))
    assert (row["gimbal_yaw"], row["gimbal_pitch"], row["gimbal_roll"]) == (10, -60, 179.5)
    both = geo_parts.still_xmp(pix4d, "http://pix4d.com/camera/1.0/", "Camera").replace(
        b"</rdf:RDF>",
        b'<rdf:Description xmlns:p="http://www.parrot.com/drone-parrot/1.0/">'
        b"<p:CameraPitchDegree>-61</p:CameraPitchDegree></rdf:Description></rdf:RDF>",
    )
    assert read(tmp_path, both)["gimbal_pitch"] == -61


def test_other_programs_fields_are_not_angles(tmp_path):
    row = read(tmp_path, geo_parts.still_xmp({"Pitch": "3", "Roll": "4"}, "http://x.org/", "x"))
    assert set(row) == {"width", "height", "orientation"}


def test_folder(tmp_path):
    (tmp_path / "sub").mkdir()
    geo_parts.write_still(tmp_path / "b.jpg", geo_parts.still_xmp(DJI), GPS)
    geo_parts.write_still(tmp_path / "sub" / "a.JPG", b"", None)
    (tmp_path / "notes.txt").write_text("x")
    stills = load_stills(tmp_path)
    assert list(stills.found) == ["b.jpg", "sub/a.JPG"]
    np.testing.assert_array_equal(stills.telemetry.columns["latitude"], [54.17875, np.nan])


def test_bad_stills(tmp_path):
    with pytest.raises(InputError, match="its XMP is damaged"):
        read(tmp_path, b"<x:xmpmeta")
    with pytest.raises(InputError, match="entities"):
        read(tmp_path, b'<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>')
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8 no image")
    with pytest.raises(InputError, match=r"b\.jpg: is not an image"):
        read_still(tmp_path / "b.jpg")
    with pytest.raises(InputError, match="no such image"):
        read_still(tmp_path / "c.jpg")
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        load_stills(tmp_path / "none")
    with pytest.raises(InputError, match="no such folder"):
        load_stills(tmp_path / "nowhere")
