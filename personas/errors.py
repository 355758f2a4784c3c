"""The one error of this package."""


class PersonaError(Exception):
    """A persona cannot be read or found; the message names the file, the place and the remedy."""
