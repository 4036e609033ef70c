"""A fleet of sandboxes behind E2B's API: a program of its own, whose state is the cluster's.

`sandkeeper fleet` serves E2B's control plane from agent-sandbox's claims and leads requests to the
Pods. Nothing is kept here: each replica has the same cache of what it watches, and may end at any
moment.
"""
