"""From files to de-identified volumes and matched annotations."""
