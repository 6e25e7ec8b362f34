"""What answers each route, by who asks: workers, operators, readers, hosts that enrol."""
