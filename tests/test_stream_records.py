"""Files of records when the disk is full; tests/test_stream.py has what is in them."""

import builtins
import csv

import pytest

from cpr_deploy import stream_records

FRAME = {"type": "frame", "source": "s", "frame": 0, "pts": 0.0, "captured_at": 1.0}
FRAME["points"] = [{"x": 1.0, "y": 2.0, "score": 0.5, "label": 0, "class_name": "seal"}]


@pytest.fixture
def full_disk(monkeypatch):
    def open_full(_, *args, **options):
        return builtins.open("/dev/full", *args, **options)

    monkeypatch.setattr(stream_records, "open", open_full, raising=False)


def test_a_table_tells_what_not_to_act_on(tmp_path):
    with stream_records.open_csv(str(tmp_path / "out.csv")) as writer:
        writer.write({**FRAME, "flags": 0})
        writer.write({**FRAME, "flags": 4, "stale": True, "frozen": True})
    with open(tmp_path / "out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [[row[name] for name in ("stale", "frozen", "flags")] for row in rows] == [
        ["0", "0", "0"],
        ["1", "1", "4"],
    ]


@pytest.mark.parametrize("open_writer", [stream_records.open_records, stream_records.open_csv])
def test_a_full_disk_is_told_once(tmp_path, full_disk, open_writer):
    """By the write; the end of the run does not fail again."""
    with open_writer(str(tmp_path / "out"), in_place=True) as writer:
        with pytest.raises(OSError, match="No space left"):
            writer.write(FRAME)


def test_a_full_disk_leaves_no_file_of_a_run_that_ends(tmp_path, full_disk):
    with pytest.raises(OSError, match="No space left"):
        with stream_records.open_records(str(tmp_path / "out")) as writer:
            writer.write(FRAME)
    assert list(tmp_path.iterdir()) == []
