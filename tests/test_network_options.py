import argparse

import pytest

import spot_model
from cpr_deploy.files import InputError
from cpr_deploy.network_options import add_network_options, check_network_options, open_localizer


def parsed(*words):
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    add_network_options(parser)
    return parser.parse_args(words)


def test_the_localizer_is_as_asked_for(tmp_path):
    path = tmp_path / "spot.onnx"
    path.write_bytes(spot_model.model_bytes())
    words = ["--model", str(path), "--providers", "cpu", "--threads", "1", "--score-thresh", "0.7"]
    localizer = open_localizer(parsed(*words), resize="none")
    assert localizer.providers == ("CPUExecutionProvider",) and localizer.score_thresh == 0.7
    assert localizer.resize == "none"


@pytest.mark.parametrize("threads", ["0", "-1", "1025"])
def test_threads_out_of_range(threads):
    with pytest.raises(InputError, match=f"--threads {threads}: 1 to 1024"):
        check_network_options(parsed("--threads", threads))
    check_network_options(parsed())
