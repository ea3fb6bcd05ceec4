"""Runs a script of tools/ in this process, as from the command line."""

import importlib.util
import sys
from pathlib import Path
from unittest import mock

from cpr_deploy.files import run_main

ROOT = Path(__file__).parents[1]


def run_tool(name, *args):
    """Exit code of `python tools/<name>.py *args`."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with mock.patch.object(sys, "argv", [name, *map(str, args)]):
        return run_main(module.main)
