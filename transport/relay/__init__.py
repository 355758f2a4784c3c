"""The relay resource of Oblivious HTTP, and the link between our own roles."""
