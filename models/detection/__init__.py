"""Networks that find nodules in a whole chest, named by a folder of the workspace."""
