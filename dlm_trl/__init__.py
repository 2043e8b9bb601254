"""Notes go in, a trained adapter comes out. Importing the package teaches `datasets.load_dataset` to read `.dlm` files."""

__version__ = "0.1.0"
