"""Labelled conversations, and how the configured model and prompt do on them (docs/judgements.md)."""
