"""Finds the cause of an error in a project, and a fix."""

from minimax import MiniMaxM3

ERROR_LOG = """
Traceback (most recent call last):
  File "app.py", line 42, in process_data
    result = transform(data)
  File "transform.py", line 128, in transform
    return parser.parse(data)
  File "parser.py", line 89, in parse
    return json.loads(data)
JSONDecodeError: Expecting value: line 1 column 1 (char 0)
"""
CODEBASE = """
### transform.py
import parser

def transform(data):
    return parser.parse(data)

### parser.py
import json

def parse(data):
    return json.loads(data)
"""

analysis = MiniMaxM3().fix_bug(error_log=ERROR_LOG, project_context=CODEBASE, include_explanation=True, max_tokens=96)
print(analysis.content)
print(f"changed files: {[file.path for file in analysis.files]}, {analysis.verdict}: {analysis.notes}")
