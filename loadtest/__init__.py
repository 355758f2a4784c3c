"""The load harness: real clients, real dialogues, figures."""
