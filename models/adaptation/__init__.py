"""What pulls two sites together, with the loss of each method as its paper gives it."""
