"""Figures with intervals, fusion with size, and the gates."""
