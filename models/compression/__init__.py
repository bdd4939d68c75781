"""Smaller and faster forms of a network: students, and files for other runtimes."""
