import os
import threading

import pytest
from PIL import Image

from cpr.data.file_notes import FOLDER, open_notes
from cpr.data.footage.near_duplicates import hash_images
from cpr.data.quality import image_facts
from cpr.data.quality.image_facts import inspect_images


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / FOLDER


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(6):
        Image.new("RGB", (20 + number, 16), (40 * number, 0, 0)).save(folder / f"{number}.png")
    return folder


def test_notes_last_until_the_file_changes(images):
    file = images / "0.png"
    with open_notes(images) as notes:
        assert notes.get(file, "a") is None
        notes.put(file, "a", [1, None, "x"])
        notes.put(file, "b", 2)
        notes.put(file, "b", 3)
    with open_notes(images) as notes:
        assert (notes.get(file, "a"), notes.get(file, "b")) == ([1, None, "x"], 3)
        assert notes.get(images / "1.png", "a") is None and notes.get(images / "no", "a") is None
    with open_notes(images, wanted=False) as notes:
        assert notes.get(file, "a") is None
    os.utime(file, ns=(0, 12345))
    with open_notes(images) as notes:
        assert notes.get(file, "a") is None


def test_a_line_cut_off_is_passed_over(images, cache):
    with open_notes(images) as notes:
        notes.put(images / "0.png", "a", 1)
    (file,) = cache.iterdir()
    with file.open("ab") as lines:
        lines.write(b'["/x\xff", "a", [1,')
    with open_notes(images) as notes:
        notes.put(images / "1.png", "a", 2)
    with open_notes(images) as notes:
        assert [notes.get(images / f"{n}.png", "a") for n in (0, 1)] == [1, 2]


def test_many_threads_write_whole_lines(images):
    with open_notes(images) as notes:

        def work(kind):
            for value in range(200):
                notes.put(images / "0.png", kind, value)

        threads = [threading.Thread(target=work, args=(str(n),)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with open_notes(images) as notes:
        assert [notes.get(images / "0.png", str(n)) for n in range(4)] == [199] * 4


def test_a_cache_that_cannot_be_written_stops_nothing(images, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    facts = inspect_images(images, ["0.png"], resume=True)
    assert facts["0.png"].width == 20 and "cannot be written" in caplog.text


def stop_after(count):
    def progress(iterable, total):
        for number, item in enumerate(iterable):
            if number == count:
                raise KeyboardInterrupt
            yield item

    return progress


@pytest.mark.parametrize("hashes", [False, True])
def test_a_stopped_inspection_goes_on(images, monkeypatch, hashes):
    names = [f"{number}.png" for number in range(6)]
    (images / "2.png").write_bytes((images / "2.png").read_bytes()[:60])
    expected = inspect_images(images, names, hashes=hashes)
    with pytest.raises(KeyboardInterrupt):
        options = {"hashes": hashes, "resume": True, "workers": 1}
        inspect_images(images, names, progress=stop_after(3), **options)
    read = []
    decode = image_facts._decoded

    def watched(path, hashes):
        read.append(path.name)
        return decode(path, hashes)

    monkeypatch.setattr(image_facts, "_decoded", watched)
    assert inspect_images(images, names, **options) == expected
    assert {"0.png", "1.png"}.isdisjoint(read)
    # What was bad is looked at again: it may have been mended.
    read.clear()
    assert inspect_images(images, names, **options) == expected and read == ["2.png"]


def test_stopped_hashing_goes_on(images):
    records = [{"id": n, "file_name": f"{n}.png", "width": 20 + n, "height": 16} for n in range(6)]
    expected, _ = hash_images(images, records)
    with pytest.raises(KeyboardInterrupt):
        hash_images(images, records, resume=True, workers=1, progress=stop_after(3))
    state = (images / "0.png").stat()
    (images / "0.png").write_bytes(b"x" * state.st_size)  # nobody looks: size and time are the same
    os.utime(images / "0.png", ns=(state.st_atime_ns, state.st_mtime_ns))
    hashes, problems = hash_images(images, records, resume=True)
    assert not problems and (hashes == expected).all()
    # Another size in the record is another question.
    records[1]["width"] = 7
    _, problems = hash_images(images, records, resume=True)
    assert list(problems) == [1]
