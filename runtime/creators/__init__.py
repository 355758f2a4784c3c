"""What creators try a persona with before they publish it: its prompt, and tests of its replies."""
