"""The steps of a job: plan, score, probe, finish."""
