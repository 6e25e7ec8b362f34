"""Measures the fleet against its floors and aims, always as a ratio within one run where a machine could flatter it."""

from training.needs import demand

demand(78)
