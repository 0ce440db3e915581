"""The recipes' YAML files: configurations, and comparisons for `hf-unlearn compare`."""

from pathlib import Path

RECIPES = Path(__file__).parents[2] / "recipes"
COMPARISONS = sorted(
    path for path in RECIPES.glob("*/*.yaml") if "\nmethods:" in path.read_text(encoding="utf-8")
)


def configurations(*recipes: str) -> list[Path]:
    return sorted(
        {path for name in recipes for path in (RECIPES / name).glob("*.yaml")} - set(COMPARISONS)
    )
