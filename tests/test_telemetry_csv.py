import numpy as np
import pytest

from cpr_deploy.files import InputError
from cpr_deploy.geo.load import load_telemetry
from cpr_deploy.geo.telemetry_csv import CsvTelemetry


def write(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_own_names_and_empty_cells(tmp_path):
    path = write(
        tmp_path,
        "time_video,latitude,longitude,altitude_msl,platform_yaw,other\n0,54,12,100,,x\n0.5,55,13,,7,\n",
    )
    telemetry = load_telemetry(path)
    assert telemetry.clock == "video" and telemetry.time.tolist() == [0, 0.5]
    np.testing.assert_array_equal(telemetry.columns["altitude_msl"], [100, np.nan])
    np.testing.assert_array_equal(telemetry.columns["platform_yaw"], [np.nan, 7])
    assert not telemetry.has(["altitude_msl", "platform_yaw"])
    assert telemetry.has(["platform_yaw", "latitude"])


@pytest.mark.parametrize(
    ("cells", "unit"),
    [
        (("2026-06-01T09:30:00Z", "2026-06-01T11:30:00.5+02:00"), "s"),
        (("1780306200000", "1780306200500"), "ms"),
        (("1780306200000000", "1780306200500000"), "us"),
        (("1780306200", "1780306200.5"), "s"),
    ],
)
def test_times_in_utc(tmp_path, cells, unit):
    path = write(tmp_path, f"when;Lat;Lng\n{cells[0]};54;12\n{cells[1]};54;12\n")
    columns = {"time_utc": "when", "latitude": "Lat", "longitude": "Lng"}
    telemetry = load_telemetry(path, columns, unit)
    # 2026-06-01 09:30 UTC is 20,605 days and 34,200 seconds after 1970.
    assert telemetry.time.tolist() == [20605 * 86400 + 34200, 20605 * 86400 + 34200.5]
    assert telemetry.clock == "utc"


@pytest.mark.parametrize(
    ("text", "columns", "words"),
    [
        ("", {}, "is empty"),
        ("a,b\n1,2\n", {}, "a time .* latitude and longitude are needed; the columns are a, b"),
        ("time_utc,time_video,latitude,longitude\n", {}, "a time"),
        ("time_video,latitude,longitude\n", {"speed": "v"}, "--columns speed=.*no such field"),
        ("time_video,latitude,longitude\n", {"altitude_msl": "h"}, "has no column 'h'"),
        ("time_video,latitude,longitude\n0,x,1\n", {}, "line 2: latitude 'x': a number"),
        ("time_video,latitude,longitude\n\n0,1,1\n,1,1\n", {}, "line 4: .*needs a time"),
        ("time_utc,latitude,longitude\n2026-06-01T09:30:00,1,1\n", {}, "line 2: .*no zone"),
        ("time_video,latitude,longitude\n0,inf,1\n", {}, "line 2: .*finite"),
        ("time_video,latitude,longitude\n", {}, "holds no telemetry"),
        ("time_video,latitude,longitude\n0,500,1\n", {}, "latitude 500"),
    ],
)
def test_bad_tables(tmp_path, text, columns, words):
    with pytest.raises(InputError, match=words):
        load_telemetry(write(tmp_path, text), columns)


def test_a_table_that_grows(tmp_path):
    path = write(tmp_path, "time_video,latitude,longitude\n0,54,12\n1,54,12\n2,5")
    table = CsvTelemetry(path)
    assert len(table.telemetry()) == 2, "the last row is not whole yet"
    assert not table.update()
    with open(path, "a") as file:
        file.write("5,12\n3,56,12\n")
    assert table.update()
    assert table.telemetry().columns["latitude"].tolist() == [54, 54, 55, 56]
    assert table.telemetry(2).time.tolist() == [2, 3]


def test_a_bad_row_does_not_end_a_flight(tmp_path, caplog):
    path = write(tmp_path, "time_video,latitude,longitude\n0,54,12\n")
    table = CsvTelemetry(path)
    with open(path, "a") as file:
        file.write("1,54,12\n2,54,12?\n\x00,54,12\n3,5412,12\n4,55,12\n")
    assert table.update()
    assert table.telemetry().columns["latitude"].tolist() == [54, 54, 55]
    assert table.telemetry().time.tolist() == [0, 1, 4]
    assert [text in caplog.text for text in ("12?", "latitude 5412")] == [True, True]


@pytest.mark.parametrize(("last", "count"), [("2,55,12", 3), ("2,55", 2), ("2,55,12\n", 3)])
def test_the_last_row_of_a_finished_table_needs_no_end_of_line(tmp_path, last, count):
    path = write(tmp_path, f"time_video,latitude,longitude\n0,54,12\n1,54,12\n{last}")
    assert len(load_telemetry(path)) == count


def test_columns_are_for_tables(tmp_path):
    path = write(tmp_path, "x", "a.srt")
    with pytest.raises(InputError, match="for tables"):
        load_telemetry(path, {"latitude": "a"})
    with pytest.raises(InputError, match="telemetry is read from"):
        load_telemetry(write(tmp_path, "x", "a.doc"))
    with pytest.raises(InputError, match="no such file"):
        load_telemetry(tmp_path / "b.csv")
