"""What a request adds to a run: the ledger, stacked adapters, and what stays forgotten."""
