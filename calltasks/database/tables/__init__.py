"""Statements, a module a table family."""
