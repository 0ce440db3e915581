"""`hf-unlearn verify`: compares a ledger with a repeated run, or with published weights."""
