"""The witness (c2sp.org/tlog-witness): cosigns the heads of logs that only grow."""
