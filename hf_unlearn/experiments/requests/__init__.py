"""Requests one after another: the ledger, earlier requests, stacked adapters, and `verify`."""
