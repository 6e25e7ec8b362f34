"""Telemetry: files in, checked rows of all hosts in memory, their windows, and who trains and who tests."""
