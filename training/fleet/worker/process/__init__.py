"""The processes of a trainer on this machine: start, stop, take over, and what is known of how they ended."""
