"""Beyond the paper: CNNs, one recast as GPSA, a single softmax, initial weights, a teacher (chapters 09 to 11)."""
