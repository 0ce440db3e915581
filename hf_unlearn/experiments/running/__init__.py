"""One run of a recipe from its options to the report, and what it measures."""
