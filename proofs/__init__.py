"""Evidence, policy, receipts, the transparency log, and their offline verification."""
