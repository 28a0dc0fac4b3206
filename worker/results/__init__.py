"""The output folder of a job."""
