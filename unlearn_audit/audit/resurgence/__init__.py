"""Does the forgotten come back without the data? Copies are rounded, pruned or fine-tuned, and looked at again."""
