"""Generates an application: files, and receipts of what was checked. MINIMAX_BASE_URL names the server."""

from minimax import MiniMaxM3

PROMPT = """
Generate a complete Python FastAPI application with:
1. User authentication (JWT)
2. PostgreSQL database integration with SQLAlchemy
3. CRUD operations for a 'Project' resource
4. WebSocket support for real-time updates
5. OpenAPI documentation
6. Rate limiting
7. Unit tests with pytest

Include main.py, models.py, schemas.py, routes.py, auth.py, config.py and requirements.txt.
"""

model = MiniMaxM3(model_version="m3-pro", max_context=1_000_000)
response = model.generate(
    prompt=PROMPT,
    language="python",
    framework="fastapi",
    include_tests=True,
    style="production-ready",
    max_tokens=64,
)
for file in response.files:
    print(f"{file.path}: {len(file.content)} characters{'' if file.complete else ', cut by max_tokens'}")
for receipt in response.receipts:
    print(f"{receipt.command}: exit {receipt.exit_code}, {receipt.checked}")
print(f"{response.usage.completion_tokens} tokens, ended by {response.finish_reason}")
