"""The truncation error of RCD: reference runs of many steps, and what they say of K."""
