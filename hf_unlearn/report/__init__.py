"""What a run says: results, tables, plots, the HTML page."""
