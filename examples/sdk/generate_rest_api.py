"""Generates an application: files, and receipts of what was checked. MINIMAX_BASE_URL names the server."""

from minimax import MiniMaxM3

model = MiniMaxM3(model_version="m3-pro", max_context=1_000_000)
response = model.generate(
    prompt="A FastAPI application with user authentication (JWT), CRUD for a 'Project' resource and rate limiting.",
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
