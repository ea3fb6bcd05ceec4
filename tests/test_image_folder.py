import numpy as np
import pytest
from PIL import Image, ImageFile

from cpr.data.image_folder import list_images, read_recorded
from cpr_deploy.files import InputError
from cpr_deploy.image_files import read_bgr, read_rgb


def test_list_and_read(tmp_path):
    (tmp_path / "sub").mkdir()
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0, 0] = 10, 20, 30
    Image.fromarray(pixels).save(tmp_path / "b.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "sub" / "a.PNG", exif=turned)
    (tmp_path / "notes.txt").write_text("not an image")
    assert list_images(tmp_path) == [
        {"id": 1, "file_name": "b.png", "width": 6, "height": 4},
        {"id": 2, "file_name": "sub/a.PNG", "width": 4, "height": 6},
    ]
    assert read_bgr(tmp_path / "b.png")[0, 0].tolist() == [30, 20, 10]
    # Orientation 6: to be turned clockwise, so the first pixel goes to the top right.
    assert read_bgr(tmp_path / "sub" / "a.PNG")[0, 3].tolist() == [30, 20, 10]


def test_errors(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        list_images(tmp_path / "none")
    with pytest.raises(InputError, match="no image in it"):
        list_images(tmp_path)
    (tmp_path / "x.png").write_bytes(b"hello")
    with pytest.raises(InputError, match=r"x\.png"):
        list_images(tmp_path)
    with pytest.raises(InputError, match=r"x\.png"):
        read_bgr(tmp_path / "x.png")
    with pytest.raises(InputError, match="no such image"):
        read_bgr(tmp_path / "y.png")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_images_are_not_filled_up(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    assert read_rgb(path).shape == (64, 64, 3)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match=rf"x\.{suffix}: cannot be read as an image \(.*truncated"):
        read_rgb(path)


def test_recorded_images(tmp_path):
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0, 0] = 10, 20, 30
    Image.fromarray(pixels).save(tmp_path / "b.png")
    record = {"id": 7, "file_name": "b.png", "width": 6, "height": 4}
    assert read_recorded(tmp_path, record)[0, 0].tolist() == [10, 20, 30]
    for change, message in (
        ({"width": 7}, r"b\.png \(image id 7\): the image is 6x4 .* says 7x4"),
        ({"file_name": "c.png"}, "image id 7"),
        ({"file_name": "../b.png"}, "image id 7: .*leads out"),
        ({"file_name": "x" * 5000}, "image id 7: .*too long"),
    ):
        with pytest.raises(InputError, match=message):
            read_recorded(tmp_path, {**record, **change})


def test_the_rotation_of_a_png_may_stand_after_its_pixels(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    path = tmp_path / "a.png"
    Image.new("RGB", (6, 4)).save(path, exif=turned)
    data = path.read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    rest, tag = data[:start] + data[end:], data[start:end]
    (tmp_path / "late.png").write_bytes(rest[:-12] + tag + rest[-12:])  # before the last chunk
    (tmp_path / "none.png").write_bytes(rest)
    sizes = {r["file_name"]: (r["width"], r["height"]) for r in list_images(tmp_path)}
    assert sizes == {"a.png": (4, 6), "late.png": (4, 6), "none.png": (6, 4)}


def test_listing_decodes_no_pixels(tmp_path, monkeypatch):
    for suffix in ("png", "jpg"):
        Image.new("RGB", (6, 4)).save(tmp_path / f"a.{suffix}")

    def load(self):
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    assert len(list_images(tmp_path)) == 2
