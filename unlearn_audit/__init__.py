"""Audit machine unlearning: is the data gone from this model, is the model still good, how sure are we?"""

__version__ = "0.2.0"
__all__ = ["__version__"]
