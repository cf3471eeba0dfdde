"""Runs: a run's folder, how it resumes, sweeps, processes, signals, and what is said about it afterwards."""
