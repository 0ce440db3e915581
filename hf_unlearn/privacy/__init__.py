"""Who must not be named: redaction of texts, and trackers."""
