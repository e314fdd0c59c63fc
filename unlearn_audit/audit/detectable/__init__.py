"""What this audit could have seen: how small a part of the original, put back into retrained models, is told."""
