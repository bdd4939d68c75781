"""What computes features: processors, GPUs, precisions, memory."""
