"""What the training job, the service and the worker share."""

__version__ = "0.1.0"  # an image has Loupe's code and no package of it that could be asked
