"""Keeping what a site has: backups, their restore, and who may reach a server."""
