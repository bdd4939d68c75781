"""From volumes and annotations to datasets, and the phantom."""
