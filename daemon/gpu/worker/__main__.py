"""`python -m daemon.gpu.worker SOCKET NOTES`: the GPU worker, started by the daemon with two descriptors.

SOCKET is its end of a stream socket (daemon.gpu.protocol), NOTES the page of calls in progress
(daemon.gpu.call_notes).
"""

from __future__ import annotations

import sys

from daemon.gpu.worker.reads import OPERATIONS
from daemon.gpu.worker.server import serve

if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]), OPERATIONS)
