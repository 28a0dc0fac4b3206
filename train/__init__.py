"""The training job: data set → model in the store."""
