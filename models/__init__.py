"""What is learned: networks, losses, fitting and prediction. Arrays and tensors in, arrays and tensors out."""
