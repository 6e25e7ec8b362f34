"""The coordinator: receiver, worker and operator command around one queue and one artifact store."""

from training.needs import demand

demand(78)

__version__ = "0.1.0"
"""Version of the receiver, the worker and the wire they speak."""
