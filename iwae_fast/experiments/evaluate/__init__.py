"""Evaluates runs, keeps what came of it, and compares it."""
