"""The one error of this package."""


class PersonaError(Exception):
    """A persona cannot be read or found; the message names the file, the place and the remedy."""


class AuthorshipError(PersonaError):
    """A signed step, or a chain of them, does not hold; the message says at which step and why."""


class SealedError(PersonaError):
    """A sealed definition does not open."""


class RegistryError(PersonaError):
    """The registry takes a step or a piece not, or is away.

    Attributes:
        code: Stable machine word.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code
