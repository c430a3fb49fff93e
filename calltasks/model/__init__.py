"""DashScope."""
