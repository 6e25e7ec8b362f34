"""The words of the fleet as values: jobs, hosts and what one needs of the other.

Pure: nothing here reads a file, starts a process or asks the clock. Every other part may import it.
"""
