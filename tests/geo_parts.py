"""Parts of the tests about positions on the Earth, made with scipy, OpenCV and pyproj alone."""

import json
import struct

import cv2
import numpy as np
from pyproj import Geod, Transformer
from scipy.spatial.transform import Rotation

from cpr_deploy import stream_records
from cpr_deploy.camera import CameraModel
from cpr_deploy.geo.flight_path import Pose
from cpr_deploy.point_localizer import PointResult

K = np.array([[2900.0, 0, 1919.5], [0, 2905.0, 1079.5], [0, 0, 1]])
PINHOLE = CameraModel(3840, 2160, K, "none")
GEOD = Geod(ellps="WGS84")
TO_ECEF = Transformer.from_crs("EPSG:4979", "EPSG:4978", always_xy=True)
# North-east-down from the optical frame of a camera that looks north, level.
_NED_FROM_OPTICAL = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])


KLV_KEY = bytes.fromhex("060e2b34020b01010e01030101000000")


def pose(latitude, longitude, altitude, yaw=0.0, pitch=-90.0, roll=0.0):
    turn = Rotation.from_euler("ZYX", [yaw, pitch, roll], degrees=True).as_matrix()
    return Pose(latitude, longitude, altitude, turn @ _NED_FROM_OPTICAL)


def ecef(latitude, longitude, height):
    return np.array(TO_ECEF.transform(longitude, latitude, height))


def ned_axes(latitude, longitude):
    """Rows north, east, down in ECEF, by finite differences of pyproj's conversion."""
    up = ecef(latitude, longitude, 1e3) - ecef(latitude, longitude, 0)
    up /= np.linalg.norm(up)
    east = np.cross([0, 0, 1], up)
    east /= np.linalg.norm(east)
    return np.array([np.cross(up, east), east, -up])


def pixel_of(camera, place, target):
    """Where OpenCV sees (latitude, longitude, height) `target` from a pose, in our pixels."""
    start = ecef(place.latitude, place.longitude, place.altitude)
    ned = ned_axes(place.latitude, place.longitude) @ (ecef(*target) - start)
    xyz = place.ned_from_camera.T @ ned
    # Beyond, the distortion's formula leads back into the picture.
    if np.hypot(xyz[0], xyz[1]) > 0.9 * xyz[2]:
        return None
    at, _ = cv2.projectPoints(xyz[None], np.zeros(3), np.zeros(3), camera.k, np.array(camera.d))
    return at.ravel() + 0.5


def srt(cues):
    """A subtitle file of (seconds, text) pairs."""

    def stamp(seconds):
        ms = round(seconds * 1000)
        return f"{ms // 3600000:02}:{ms // 60000 % 60:02}:{ms // 1000 % 60:02},{ms % 1000:03}"

    return "".join(
        f"{number}\n{stamp(start)} --> {stamp(start + 0.1)}\n{text}\n\n"
        for number, (start, text) in enumerate(cues, 1)
    )


def bracket_cue(latitude, longitude, relative, yaw=0.0, pitch=-90.0):
    return (
        '<font size="28">FrameCnt: 1, DiffTime: 33ms\n2026-06-01 09:00:00.000\n[iso: 100]'
        f" [fnum: 2.8] [latitude: {latitude:.7f}] [longitude: {longitude:.7f}]"
        f" [rel_alt: {relative:.3f} abs_alt: {relative + 20:.3f}]"
        f" [gb_yaw: {yaw:.1f} gb_pitch: {pitch:.1f} gb_roll: 0.0] </font>"
    )


def write_flight(folder, seconds=10, latitude=54.0, longitude=12.0, height=100.0, step=0.1):
    """A flight north at 10 m/s that looks straight down: flight.srt; camera.json beside it."""
    cues = []
    for index in range(int(seconds / step) + 1):
        time = index * step
        at = GEOD.fwd(longitude, latitude, 0, 10 * time)
        cues.append((time, bracket_cue(at[1], at[0], height)))
    (folder / "flight.srt").write_text(srt(cues))
    (folder / "camera.json").write_text(json.dumps(PINHOLE.to_dict()))


def frame_record(points, pts=1.0, frame=0, **fields):
    """As deploy/video.py writes it. points: (x, y); fields stand above what it has."""
    count = len(points)
    record = stream_records.frame_record(
        source="clip.mp4",
        frame=frame,
        pts=pts,
        captured_at=1.0e9,
        latency_ms={},
        shape=(PINHOLE.height, PINHOLE.width, 3),
        result=PointResult(
            np.array(points, np.float32).reshape(-1, 2),
            np.full(count, 0.9, np.float32),
            np.zeros(count, np.int64),
            0,
        ),
        class_names=["person"],
    )
    return {**record, **fields}


def klv_packet(tags):
    """A packet of ST 0601 with (tag, bytes) pairs and its checksum, which goes last."""
    body = b"".join(bytes([tag, len(value)]) + value for tag, value in tags) + b"\x01\x02"
    size = len(body) + 2
    length = bytes([size]) if size < 128 else bytes([0x82]) + struct.pack(">H", size)
    packet = KLV_KEY + length + body
    total = sum(byte << (8 * ((index + 1) % 2)) for index, byte in enumerate(packet))
    return packet + struct.pack(">H", total & 0xFFFF)


def still_xmp(attributes, namespace="http://www.dji.com/drone-dji/1.0/", prefix="drone-dji"):
    fields = " ".join(f'{prefix}:{name}="{value}"' for name, value in attributes.items())
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF'
        ' xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:{prefix}="{namespace}" {fields}/>'
        "</rdf:RDF></x:xmpmeta>"
    ).encode()


def write_still(path, xmp=b"", gps=None, size=(96, 54), orientation=None):
    """A JPEG with XMP and GPS tags: {tag: value}."""
    from PIL import ExifTags, Image

    image = Image.new("RGB", size, (90, 120, 140))
    exif = Image.Exif()
    if gps:
        exif.get_ifd(ExifTags.IFD.GPSInfo).update(gps)
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    image.save(path, exif=exif, xmp=xmp)
