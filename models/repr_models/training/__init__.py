"""From a recipe to a checkpoint with its record."""
