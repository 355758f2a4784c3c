"""The device side: keys, sealed turns, receipts."""
