"""When a run ends, and why it ended."""
