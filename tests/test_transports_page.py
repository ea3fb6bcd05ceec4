"""What the transports part of PICKING.md shows is what the code reads and writes."""

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np

import pick_bags
import spot_model
from cpr_deploy.picking.pick_frames import DEPTHS, ENCODINGS, pack_frame
from cpr_deploy.picking.pick_server import VERBS
from cpr_deploy.picking.tool_poses import kuka_xml, tool_pose
from cpr_deploy.ros.images import COLOURS
from cpr_deploy.ros.images import DEPTHS as DEPTH_ENCODINGS
from cpr_deploy.ros.pick_pipeline import OUTPUTS

PAGE = (Path(__file__).parents[1] / "deploy/PICKING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```xml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
ANSWER = {
    "ok": True,
    "target": {"id": "1700000000.050000-0"},
    "pose": tool_pose((0.4, -0.1, 0.2), (0, 0, -1)).to_dict(),
}
STALE = {"ok": False, "code": "stale", "reason": "the newest frame is 0.81 s old"}


def test_the_xml_is_what_is_sent():
    shown = BLOCKS[0].splitlines()
    found = [kuka_xml(ANSWER), kuka_xml(STALE)]
    for line, sent in zip(shown[1:], found, strict=True):
        first, second = ElementTree.fromstring(line), ElementTree.fromstring(sent)
        assert first.attrib == second.attrib
        for one, other in zip(first, second, strict=True):
            numbers = [{name: abs(float(v)) for name, v in e.attrib.items()} for e in (one, other)]
            assert one.tag == other.tag and numbers[0] == numbers[1]


def test_the_configuration_of_ethernetkrl_reads_all_of_it():
    """Each tag is an element or an attribute of an answer, and none is left out."""
    configuration = ElementTree.fromstring(BLOCKS[1])
    tags = {element.get("Tag") for element in configuration.iterfind("RECEIVE//ELEMENT")}
    pick = ElementTree.fromstring(kuka_xml(ANSWER))
    sent = {"Pick", *(f"Pick/@{name}" for name in pick.attrib)}
    sent |= {f"Pick/Pose/@{name}" for name in pick.find("Pose").attrib}
    assert tags == sent - {"Pick/@Reason"}
    asked = {element.get("Tag") for element in configuration.iterfind("SEND//ELEMENT")}
    request = ElementTree.fromstring(BLOCKS[0].splitlines()[0])
    assert asked == {f"Robot/@{name}" for name in request.attrib}


def test_the_header_of_frames():
    shown = re.search(r'^    (\{"width".*?\}\})$', PAGE, re.MULTILINE | re.DOTALL)[1]
    header = json.loads(shown.replace("[..]", "[]"))
    image = spot_model.picture(pick_bags.HEIGHT, pick_bags.WIDTH)
    packed = pack_frame(image, pick_bags.depth(0), depth_unit="mm", stamp=0.0, base_from_hand={})
    sent = json.loads(packed.partition(b"\n")[0])
    assert header.keys() == sent.keys()
    assert header["encoding"] in ENCODINGS and header["depth"] in DEPTHS
    assert np.frombuffer(packed[-2:], "<u2")[0] == pick_bags.depth(0)[-1, -1]


def test_names_on_the_page():
    for name, kind in OUTPUTS.items():
        assert f"| `{name}` | `{kind.replace('/msg', '')}` |" in PAGE
    for name in (*COLOURS, *DEPTH_ENCODINGS):
        assert name in PAGE
    for verb in VERBS:
        assert f"`POST /picks/{verb}`" in PAGE and f"/picking/ARM/{verb}" in PAGE
