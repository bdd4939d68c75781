"""A workspace in an S3 bucket: a working copy on this machine, and what it takes from and gives to the bucket."""
