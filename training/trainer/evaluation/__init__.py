"""Every number about the scored test windows of a run."""
