"""The edge: websockets in front, the relay behind, nothing readable in between."""
