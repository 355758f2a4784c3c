"""Sealed, chained memory that only the holder of the thread key can open."""
