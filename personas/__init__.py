"""Personas: model, digest, and the bundled library."""
