"""Lists the packages, because `find:` in setup.cfg cannot add packages outside of hf_unlearn/. All
other metadata is in setup.cfg."""

from setuptools import find_packages, setup

# The card template and the recipes live at the top of the repository and are installed as
# subpackages (package_dir in setup.cfg).
BESIDE = ["hf_unlearn.model_cards", "hf_unlearn.recipes"]

setup(packages=[*find_packages(include=["hf_unlearn", "hf_unlearn.*"]), *BESIDE])
