"""Installing a part of the fleet on the host that this runs on, as a service that starts at every boot.

`worker` and `receiver` are the commands. `steps` says each change before it is made, `programs` starts what installing
needs, `code` copies the project. On Linux `linux` knows places, accounts and files, `release` the copy of the code with
an environment of its own, and `unit` the service; on Windows `task` is the service. Standard library only, because it
runs before anything is installed.
"""
