"""Membership inference: what the attacks are shown, their scores, and the numbers read from them."""
