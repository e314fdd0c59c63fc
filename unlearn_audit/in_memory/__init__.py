"""The Python face: data, training, relearning, unlearning and audits for models in memory, without a file.

Its names are those of the package itself: `import unlearn_audit as ua`.
"""
