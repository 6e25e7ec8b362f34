"""The trainer: a program that turns a job description and a dataset into an artifact folder."""
