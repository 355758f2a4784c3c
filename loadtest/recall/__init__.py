"""How well memory recalls: long histories, questions about them, three ways to answer."""
