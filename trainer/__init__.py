"""The slim package that the image bakes: vocabulary, memory model, supervisor, and the training itself.

Nothing is imported here: the launch side uses this package's torch-free modules on login nodes.
"""

__version__ = "0.1.0"
