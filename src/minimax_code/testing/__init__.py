"""For tests of what is built on models, ours and other people's: a model that says what a script says, and a server."""

from minimax_code.testing.scripted import Line, ScriptedModel
from minimax_code.testing.server import ModelServer

__all__ = ["Line", "ModelServer", "ScriptedModel"]
