"""Events told to receivers (docs/events.md)."""
