"""The artifact store: bundles by digest, and the list of them."""

from training.fleet.store.artifacts import *  # noqa: F403
