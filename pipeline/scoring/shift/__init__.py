"""Whether to trust an adapted network, judged without any label of the target site."""
