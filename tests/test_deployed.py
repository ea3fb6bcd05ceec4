import pytest

from cpr.deployed import category_numbers, losses, match_classes, precision_table
from cpr_deploy.files import InputError


def metrics(small, large, everything):
    """As `evaluate_points` gives them; the values are those of tau = 1."""
    values = {"all": everything, "small": small, "large": large}
    return {"AP": {size: {"0.5": 0.1, "1.0": v, "2.0": None} for size, v in values.items()}}


def test_classes_are_matched_by_name():
    ids = category_numbers({"categories": [{"name": "car", "id": 7}, {"name": "person", "id": 3}]})
    assert match_classes(["person", "car"], ids, "gt.json") == [3, 7]
    with pytest.raises(InputError, match="gt.json: has no category named 'tree'.*has car, person"):
        match_classes(["tree"], ids, "gt.json")


def test_losses_name_the_sizes_that_suffer():
    full, small = metrics(0.5, 0.8, 0.6), metrics(0.4, 0.797, 0.55)
    assert losses(full, small) == [
        "all: mAP at tau = 1 falls from 60.0% to 55.0%",
        "small: mAP at tau = 1 falls from 50.0% to 40.0%",
    ]
    # A gain, and a size without objects, are no losses.
    assert losses(small, full) == [] and losses(metrics(None, 0.8, 0.6), small)[1:] == []


def test_table_has_a_row_per_precision_and_a_column_per_size():
    lines = precision_table({"fp32": metrics(None, 0.8, 0.6), "int8": metrics(0.4, 0.7, 0.5)})
    header, first, second = lines.splitlines()
    assert header.split() == ["mAP,", "%", "all", "small", "large"]
    assert first.split("  ")[-1].strip() == "10.0 / 80.0 / -"
    assert "10.0 / - / -" in first and second.startswith("int8") and "10.0 / 40.0 / -" in second
