"""Where a still was taken: its EXIF and XMP data (Pillow).

Position and time come from EXIF (or DJI's XMP, which has more digits), angles from XMP:

- DJI: `GimbalYawDegree`, `GimbalPitchDegree`, `GimbalRollDegree`, `FlightYawDegree` and so on,
  `RelativeAltitude`, `AbsoluteAltitude` (of RTK models above the ellipsoid: `AltitudeType` RtkAlt);
- Autel: the same names in its own namespace, or, of older ones, `Camera:Yaw/Pitch/Roll`;
- Parrot: `CameraYawDegree`, `CameraPitchDegree`, `CameraRollDegree`; older ones `Camera:...`.

All are against north and the horizon with -90 straight down, but for `Camera:Pitch` (Pix4D's
namespace), where straight down is 0 and the horizon 90.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from PIL import ExifTags, Image

from cpr_deploy.files import InputError
from cpr_deploy.image_files import unreadable

_DIRECT = {
    "GimbalYawDegree": "gimbal_yaw",
    "GimbalPitchDegree": "gimbal_pitch",
    "GimbalRollDegree": "gimbal_roll",
    "CameraYawDegree": "gimbal_yaw",
    "CameraPitchDegree": "gimbal_pitch",
    "CameraRollDegree": "gimbal_roll",
    "FlightYawDegree": "platform_yaw",
    "FlightPitchDegree": "platform_pitch",
    "FlightRollDegree": "platform_roll",
    "GpsLatitude": "latitude",
    "GPSLatitude": "latitude",
    "GpsLongitude": "longitude",
    "GpsLongtitude": "longitude",  # as older firmware spells it
    "GPSLongitude": "longitude",
    "RelativeAltitude": "altitude_relative",
}
_PIX4D = {"Yaw": "gimbal_yaw", "Pitch": "gimbal_pitch", "Roll": "gimbal_roll"}
_NUMBER = re.compile(r"\s*([-+]?\d+(?:\.\d+)?)(?:\s*/\s*(\d+(?:\.\d+)?))?\s*")


def read_still(path: Path) -> dict[str, float]:
    """Fields of `telemetry.FIELDS` of one image, and `time` (UTC, s since 1970) where it has one;
    `width` and `height` (px) and `orientation` (of EXIF; 1: shown as it was taken).

    Raises:
        InputError: the file is no image, or its XMP is no XML.
    """
    try:
        with Image.open(path) as image:
            exif, xmp, size = image.getexif(), image.info.get("xmp", b""), image.size
            gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
            orientation = exif.get(ExifTags.Base.Orientation, 1)
            row = _exif_fields(exif, gps)
    except FileNotFoundError:
        raise InputError(f"{path}: no such image file. Check the image folder.") from None
    except Exception as error:  # Pillow raises many types for damaged files
        raise InputError(f"{path}: {unreadable(error)} Copy it again or remove it.") from None
    row |= _xmp_fields(xmp, path)
    return {**row, "width": size[0], "height": size[1], "orientation": orientation}


def _exif_fields(exif: Image.Exif, gps: dict) -> dict[str, float]:
    tags = ExifTags.GPS
    row = {}
    for field, value, letter, negative in (
        ("latitude", tags.GPSLatitude, tags.GPSLatitudeRef, "S"),
        ("longitude", tags.GPSLongitude, tags.GPSLongitudeRef, "W"),
    ):
        if value in gps:
            degrees, minutes, seconds = (float(part) for part in gps[value])
            sign = -1 if str(gps.get(letter, "")).strip("\0 ").upper() == negative else 1
            row[field] = sign * (degrees + minutes / 60 + seconds / 3600)
    if tags.GPSAltitude in gps:
        reference = gps.get(tags.GPSAltitudeRef, 0)
        code = reference[0] if isinstance(reference, bytes) and reference else reference or 0
        # EXIF 3: 0 and 1 above and below sea level, 2 and 3 the ellipsoid.
        field = "altitude_ellipsoid" if code in (2, 3) else "altitude_msl"
        row[field] = float(gps[tags.GPSAltitude]) * (-1 if code in (1, 3) else 1)
    time = _exif_time(exif, gps)
    return row if time is None else {**row, "time": time}


def _exif_time(exif: Image.Exif, gps: dict) -> float | None:
    """UTC of the GPS, or the camera's clock where its zone is known."""
    utc = datetime.UTC
    if ExifTags.GPS.GPSDateStamp in gps and ExifTags.GPS.GPSTimeStamp in gps:
        hours, minutes, seconds = (float(part) for part in gps[ExifTags.GPS.GPSTimeStamp])
        day = datetime.datetime.strptime(gps[ExifTags.GPS.GPSDateStamp].strip("\0 "), "%Y:%m:%d")
        return day.replace(tzinfo=utc).timestamp() + hours * 3600 + minutes * 60 + seconds
    details = exif.get_ifd(ExifTags.IFD.Exif)
    moment = details.get(ExifTags.Base.DateTimeOriginal)
    zone = details.get(ExifTags.Base.OffsetTimeOriginal)
    if not moment or not zone:
        return None
    text = moment.strip("\0 ") + zone.strip("\0 ").replace("Z", "+00:00")
    return datetime.datetime.strptime(text, "%Y:%m:%d %H:%M:%S%z").timestamp()


def _xmp_fields(xmp: bytes | str, path: Path) -> dict[str, float]:
    row: dict[str, float] = {}
    absolute, kind = None, ""
    for namespace, name, text in _xmp_items(xmp, path):
        number = _number(text)
        if name == "AltitudeType":
            kind = text.strip()
        if number is None:
            continue
        if name in _DIRECT:
            row[_DIRECT[name]] = number
        elif name == "AbsoluteAltitude":
            absolute = number
        elif "pix4d" in namespace.lower() and name in _PIX4D and _PIX4D[name] not in row:
            row[_PIX4D[name]] = number - 90 if name == "Pitch" else number
    if absolute is not None:
        row["altitude_ellipsoid" if kind == "RtkAlt" else "altitude_msl"] = absolute
    return row


def _xmp_items(xmp: bytes | str, path: Path) -> Iterator[tuple[str, str, str]]:
    """(namespace, name, text) of all attributes and elements, vendors' own before Pix4D's."""
    data = xmp.encode() if isinstance(xmp, str) else xmp
    data = data.strip(b"\0 \t\r\n")
    if not data:
        return
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise InputError(f"{path}: its XMP defines entities, which no camera does.")
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise InputError(f"{path}: its XMP is damaged ({error}). Copy the file again.") from None
    items = []
    for element in root.iter():
        for tag, text in [(element.tag, element.text or ""), *element.attrib.items()]:
            namespace, _, name = tag.rpartition("}")
            items.append((namespace, name, text))
    yield from sorted(items, key=lambda item: "pix4d" in item[0].lower())


def _number(text: str) -> float | None:
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    return float(match[1]) / float(match[2] or 1) if float(match[2] or 1) else None
