"""The recipes' YAML files: configurations, and comparisons for `hf-unlearn compare`."""

from pathlib import Path

RECIPES = Path(__file__).parents[2] / "recipes"
COMPARISONS = sorted(RECIPES.glob("*/*compare*.yaml"))


def configurations(*recipes: str) -> list[Path]:
    return sorted(
        {path for name in recipes for path in (RECIPES / name).glob("*.yaml")} - set(COMPARISONS)
    )
