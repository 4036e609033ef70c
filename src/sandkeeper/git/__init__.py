"""Git as a service: the sandbox's git is run as the workload, and its porcelain is read."""
