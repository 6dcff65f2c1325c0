"""The fault suite's machinery: a cluster whose parts can be killed and cut off, a load with a ledger, oracles."""
