"""Refactors a project that is read into the context."""

import tempfile
from pathlib import Path

from minimax import MiniMaxM3, load_project_files

with tempfile.TemporaryDirectory() as folder:
    Path(folder, "views.py").write_text("def projects(db):\n    return db.execute('SELECT * FROM projects')\n")
    Path(folder, "models.py").write_text("class Project:\n    name: str\n")
    project_context = load_project_files(folder, max_tokens=4000)
print(
    f"{len(project_context.files)} files, about {project_context.tokens} tokens, left out: {project_context.left_out}"
)

refactored = MiniMaxM3().refactor(
    project_context=project_context,
    patterns=["repository", "di", " caching"],
    target_style="clean-architecture",
    max_tokens=64,
)
print(refactored.content)
print(f"files: {[file.path for file in refactored.files]}, {refactored.verdict}: {refactored.notes}")
