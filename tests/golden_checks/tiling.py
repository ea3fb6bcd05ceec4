"""Golden checks of tiling: training tiles of annotations and test tiles of images."""

import numpy as np

from cpr_deploy.tiling import inference_tiles, training_tiles


def check_train_tiles(case: dict) -> None:
    """Tiles and annotations in them equal those of the official code, ids and order included."""
    image = {"id": 7, "file_name": "image.jpg", "width": case["width"], "height": case["height"]}
    tiles, annotations = training_tiles(
        image,
        case["input_annotations"],
        tile=case["tile"],
        overlap=case["overlap"],
        mode=case["mode"],
        min_area_ratio=case["area_keep_ratio"],
        min_side=case["size_th"],
        min_area=case["area_th"],
    )
    assert len(tiles) == len(case["tiles"])
    for tile, expected in zip(tiles, case["tiles"], strict=True):
        assert {key: tile[key] for key in expected} == expected
        assert tile["file_name"] == image["file_name"]
    assert len(annotations) == len(case["annotations"])
    for annotation, expected in zip(annotations, case["annotations"], strict=True):
        for key, value in expected.items():
            if isinstance(value, list):
                np.testing.assert_allclose(annotation[key], value, rtol=0, atol=1e-3, err_msg=key)
            else:
                assert annotation[key] == value, key


def check_test_tiles(case: dict) -> None:
    """Offsets and sizes of test tiles equal those of the official code, order included."""
    offsets, sizes = inference_tiles(
        case["width"], case["height"], tile=case["tile"], overlap=case["overlap"]
    )
    assert offsets.tolist() == case["offsets_xy"]
    assert sizes[:, ::-1].tolist() == case["crop_hw"]
