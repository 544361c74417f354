"""What Kubernetes is told of its node: an Event for each fault, and a condition while the node needs help.

Both go to the API server of the cluster that the daemon runs in, with the token of its pod. They are
written with httpx2, which the MCP SDK brings: the official client would add tens of megabytes for four
requests.
"""
