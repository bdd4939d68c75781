"""Readers' answers: what each means, where they agree, what is settled, what waits, and the labels they give."""
