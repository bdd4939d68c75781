"""Backbones by name, the classifier around one, and the images it sees."""
