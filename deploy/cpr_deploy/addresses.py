"""Addresses of network streams: which are known, what they may open, how they are shown."""

from __future__ import annotations

import re

from cpr_deploy.files import InputError

# Scheme -> protocols that a stream of this kind may open. Anything else, files above all, is
# refused by FFmpeg, whatever a server or a playlist asks for.
PROTOCOLS = {
    "rtsp": "rtsp,rtp,udp,tcp",
    "rtsps": "rtsps,rtsp,rtp,srtp,udp,tls,tcp",
    "rtmp": "rtmp,tcp",
    "rtmps": "rtmps,rtmp,tls,tcp",
    "http": "http,tcp",
    "https": "https,http,tls,tcp",
    "tcp": "tcp",
    "udp": "udp",
    "srt": "srt",
}
# Scheme -> container format of video that is sent there.
PUSH_FORMATS = {
    "rtmp": "flv",
    "rtmps": "flv",
    "rtsp": "rtsp",
    "rtsps": "rtsp",
    "udp": "mpegts",
    "srt": "mpegts",
    "tcp": "mpegts",
}
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Names of URL parameters whose values are secrets.
_SECRET = re.compile(
    r"([?&;](?:[^=&;#]*(?:pass|pwd|token|key|secret|auth|user|sign?|credential)[^=&;#]*)=)[^&;#]*",
    re.IGNORECASE,
)


def scheme(source: str) -> str:
    """The scheme of a known stream address in lower case; "" for anything else."""
    match = re.match(r"([A-Za-z]+)://", source)
    name = match[1].lower() if match else ""
    return name if name in PROTOCOLS else ""


def redacted(url: str) -> str:
    """A URL without user name and password, and with `***` for secrets among its parameters."""
    match = re.match(r"([^:/?#]+://)([^/?#]*)(.*)", url, re.DOTALL)
    if not match:
        return url
    start, host, rest = match.groups()
    return start + host.rpartition("@")[2] + _SECRET.sub(r"\1***", rest)


def redact(text: str, url: str) -> str:
    """`text` with every mention of `url` redacted."""
    return text.replace(url, redacted(url)) if "://" in url else text


def push_format(url: str) -> str:
    """The container format of video sent to `url`; InputError if none can be."""
    if scheme(url) not in PUSH_FORMATS:
        known = ", ".join(f"{name}://" for name in PUSH_FORMATS)
        raise InputError(f"--push {redacted(url)}: video can be sent to {known}.")
    return PUSH_FORMATS[scheme(url)]


def web_address(text: str) -> tuple[str, int]:
    """ "8080" or "0.0.0.0:8080" -> host and port; the host is this machine unless given."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or not int(port) < 1 << 16:
        raise InputError(f"--web {text}: a port is needed, as in 8080, or HOST:PORT.")
    return host.strip("[]") or "127.0.0.1", int(port)
