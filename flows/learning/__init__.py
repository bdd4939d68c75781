"""Fits of networks, alone or in ranks, from features or patches."""
