"""Publish what this package makes on the Hugging Face Hub: adapters, merged and quantized models, and the rows of a
document as a dataset. `folders` and `dataset` decide which files go and write the card, `upload` sends them.
"""
