"""Reports of a run: results.json, tables, plots, and the HTML page."""
