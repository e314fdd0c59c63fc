"""The files that data and index sets come in: each read as far as it is meant to be, and refused beyond."""
