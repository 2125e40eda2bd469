"""A server of tools, as a program that speaks the Model Context Protocol."""

SERVER = '''
import os
from mcp.server.mcpserver import MCPServer

server = MCPServer("shop")

@server.tool()
def price(name: str, count: int = 1) -> str:
    """What things cost."""
    return f"{name}: {7 * count}"

@server.tool(name="odd.name/1")
def environment() -> str:
    """Its environment."""
    return "\\n".join(os.environ)

@server.tool()
def fail() -> str:
    """Fails."""
    raise ValueError("sold out")

server.run()
'''
