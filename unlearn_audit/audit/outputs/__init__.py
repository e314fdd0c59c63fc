"""The section `outputs`: answers, features and populations of models beside retrained models'."""
