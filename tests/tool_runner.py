"""Runs a script of tools/ or deploy/ in this process, as from the command line."""

import importlib.util
import sys
from pathlib import Path
from unittest import mock

from cpr_deploy.files import run_main

ROOT = Path(__file__).parents[1]


def run_tool(name, *args):
    """Exit code of `python tools/<name>.py *args`."""
    return run_script(f"tools/{name}.py", *args)


def run_script(path, *args):
    """Exit code of `python <path> *args`, where path starts at the root of the repository."""
    name = Path(path).stem
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with mock.patch.object(sys, "argv", [name, *map(str, args)]):
        return run_main(module.main)
