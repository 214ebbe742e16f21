"""`python -m tests.pinecone_server NAME DIMENSION`: the stand-in service with one index, until its input ends."""

from __future__ import annotations

import sys

from tests.pinecone_server.app import PineconeServer

if __name__ == "__main__":
    with PineconeServer() as server:
        server.create_index(sys.argv[1], int(sys.argv[2]))
        print(server.url, flush=True)
        sys.stdin.read()
