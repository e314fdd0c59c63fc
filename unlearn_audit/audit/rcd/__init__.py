"""Relearning convergence delay: runs, curves, and the numbers that are read from them."""
