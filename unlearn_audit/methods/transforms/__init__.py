"""Step transforms: what can be mixed into the steps of a method, one file each."""
