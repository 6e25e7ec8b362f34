"""The trainer: a program that turns a job description and a dataset into an artifact folder."""

from training.needs import demand

# Not 78, which tells a worker that the job is wrong for every host.
demand(75)
