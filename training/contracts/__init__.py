"""What fleet and trainer must agree on; both import it, and it imports neither."""
