"""The client of the HTTP API. Importing it does nothing."""

from minimax.client import AsyncMiniMaxM3, MiniMaxM3

__all__ = ["AsyncMiniMaxM3", "MiniMaxM3"]
