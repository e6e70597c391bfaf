"""Beyond the paper: a small CNN, its recast as GPSA, other initial weights, distillation (chapters 10 and 11)."""
