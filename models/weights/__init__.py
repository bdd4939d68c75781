"""Where weights come from, always by digest."""
