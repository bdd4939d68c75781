"""What a radiologist sees, and the answers."""
