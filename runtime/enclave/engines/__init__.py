"""Inference engines that run inside the enclave."""
