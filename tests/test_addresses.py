import pytest

from cpr_deploy.addresses import PROTOCOLS, redact, redacted, scheme


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://admin:secret@10.0.0.1:554/live", "rtsp://10.0.0.1:554/live"),
        ("rtsp://admin:p@ss@cam/live", "rtsp://cam/live"),
        ("rtsp://cam/live@2", "rtsp://cam/live@2"),
        (
            "http://cam/v?user=me&password=x&channel=2",
            "http://cam/v?user=***&password=***&channel=2",
        ),
        ("srt://cam:9?passphrase=x;mode=caller", "srt://cam:9?passphrase=***;mode=caller"),
        ("https://c/a?access_token=x#part", "https://c/a?access_token=***#part"),
        ("clip.mp4", "clip.mp4"),
    ],
)
def test_secrets_are_not_shown(url, shown):
    assert redacted(url) == shown
    assert redact(f"cannot open {url}: no", url) == f"cannot open {shown}: no"


def test_schemes():
    assert scheme("RTSP://cam") == "rtsp" and scheme("file:///etc/passwd") == ""
    assert scheme("concat:a|b") == scheme("clip.mp4") == scheme("ftp://x") == ""


def test_no_stream_may_open_files():
    for protocols in PROTOCOLS.values():
        assert not {"file", "concat", "subfile", "data", "pipe", "fd"} & set(protocols.split(","))
