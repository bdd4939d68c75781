"""In what order: the only room with Prefect, MLflow, the command line, the environment and workspace paths."""
