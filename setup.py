"""Maps the two import packages to their folders; everything else is in pyproject.toml.

Imports nothing but setuptools, so that it builds in isolation and without torch.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages("projects/CPR", include=["cpr", "cpr.*"]),
        *find_packages("deploy", include=["cpr_deploy", "cpr_deploy.*"]),
    ],
    package_dir={"cpr": "projects/CPR/cpr", "cpr_deploy": "deploy/cpr_deploy"},
)
