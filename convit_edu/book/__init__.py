"""What the chapters show: plots, explorers, widgets, and the checks of the exercises."""
