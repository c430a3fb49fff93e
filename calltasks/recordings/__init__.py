"""The archive of recordings."""
