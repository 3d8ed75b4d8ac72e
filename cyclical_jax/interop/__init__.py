"""Bridges to libraries that this package does not need; each is an extra of its own."""
