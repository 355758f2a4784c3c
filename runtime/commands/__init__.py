"""What `sotto` can do, one file per command."""
