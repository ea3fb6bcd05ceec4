"""For colcon. The work is done by `cpr_deploy`, which pip installs into the same Python."""

from setuptools import setup

NAME = "cpr_picking"

setup(
    name=NAME,
    version="0.1.0",
    packages=[NAME],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", ["launch/picking.launch.py"]),
        (f"share/{NAME}/config", ["config/picking.yaml"]),
    ],
    install_requires=["setuptools"],
    zip_safe=True,
    license="Apache-2.0",
    entry_points={"console_scripts": ["picking = cpr_picking.node:main"]},
)
