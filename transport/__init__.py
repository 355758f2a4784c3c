"""Oblivious HTTP in Python: binary HTTP, HPKE, one-shot and chunked messages, the relay."""
