"""The slim package that the image bakes: settings, supervisor, the training itself, and the tools around it.

Nothing is imported here: the launch side uses this package's torch-free modules on login nodes.
"""

__version__ = "0.1.0"
