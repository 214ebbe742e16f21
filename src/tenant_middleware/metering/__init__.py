"""What did it cost: usage, prices, and the ledger that holds every call once."""
