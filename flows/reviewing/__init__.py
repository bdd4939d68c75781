"""Reports of studies, answers to them, and the watch over what is reviewed."""
