"""The recorded experiments: grids, runs, their store, results, claims."""
