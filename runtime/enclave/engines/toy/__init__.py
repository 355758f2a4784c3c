"""The bundled toy model: its files, and the code that reads them (see README.md here)."""
