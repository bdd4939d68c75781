"""What a network looked at, tests of whether such a map may be believed, and read-outs of concepts."""
