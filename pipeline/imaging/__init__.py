"""Geometry and grey values of volumes."""
