"""Finds the packages. All other metadata is in setup.cfg, which cannot add to the packages that
`find:` finds."""

from setuptools import find_packages, setup

# The card template and the recipes live at the top of the repository and are installed as
# subpackages (package_dir in setup.cfg).
BESIDE = ["hf_unlearn.model_cards", "hf_unlearn.recipes"]

setup(packages=[*find_packages(include=["hf_unlearn", "hf_unlearn.*"]), *BESIDE])
