import numpy as np
import pytest
from PIL import Image

from cpr.data.image_folder import list_images, read_bgr
from cpr_deploy.files import InputError


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
