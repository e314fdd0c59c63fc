"""Turning a report into something to look at: one output format per file, over one common table."""
