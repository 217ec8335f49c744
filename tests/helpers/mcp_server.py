"""A server of the Model Context Protocol over standard input and output, with tools that behave and one that does not."""

import os

from mcp.server.mcpserver import MCPServer

server = MCPServer("pets")


@server.tool()
def feed(pet: str, grams: int = 10) -> str:
    """Feed a pet."""
    return f"{pet} ate {grams} g"


@server.tool()
def bite(pet: str) -> str:
    """Always fails."""
    raise RuntimeError(f"{pet} bit")


@server.tool()
def die() -> str:
    """Ends the server."""
    os._exit(3)


if __name__ == "__main__":
    server.run()
