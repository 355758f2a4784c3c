"""The transparency log: one writer, static files that anyone can mirror."""
