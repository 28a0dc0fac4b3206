"""What the training job, the service and the worker share."""
