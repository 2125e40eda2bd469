"""A task about a large text: refused with both numbers where it doesn't fit, or read in parts."""

import json.decoder
from pathlib import Path

from minimax import ContextOverflowError, MiniMaxM3

codebase = Path(json.decoder.__file__).read_text()
client = MiniMaxM3(max_context=2048)
task = "Identify all security vulnerabilities and suggest fixes"
try:
    print(client.analyze(context=codebase, task=task, analysis_depth="comprehensive", max_tokens=32))
except ContextOverflowError as error:
    print(f"refused: {error}")
answer = client.analyze(context=codebase, task=task, analysis_depth="comprehensive", on_overflow="chunk", max_tokens=32)
print(f"read in {answer.num_parts} parts: {answer}")
