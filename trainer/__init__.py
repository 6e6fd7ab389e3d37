"""The slim package that the image contains: settings, supervisor, the training itself, and the tools around it. This
file imports nothing, because the launch side uses this package's torch-free modules on login nodes."""

__version__ = "0.1.0"
