"""Temporal: connection, encryption, schedule."""
