"""Embeddings made inside the enclave: texts become vectors that recall compares."""
