"""What runs by the clock: the jobs, who may run them, and how they are served or deployed."""
