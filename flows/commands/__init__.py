"""The commands of the command line, a room a subject; each parses, calls one flow and prints one record."""
