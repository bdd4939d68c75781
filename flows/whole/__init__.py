"""Every stage in order: a plan of a run, the demo, and what a person reads at the end."""
