"""Patches, features and labels: what a fit sees."""
