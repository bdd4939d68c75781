"""Nodule marks of others: read from their formats and matched to the series of the workspace."""
