"""Fits that end alike whether or not they were interrupted."""
