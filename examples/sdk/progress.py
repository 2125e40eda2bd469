"""Progress while code is written, and what was checked in the end."""

from minimax import MiniMaxM3


def progress_callback(completed_tokens: int, total_tokens: int) -> None:
    print(f"Progress: {100 * completed_tokens / total_tokens:.1f}%")


response = MiniMaxM3().generate(
    prompt="Write a comprehensive tutorial on microservices:", max_tokens=24, callback=progress_callback
)
print(f"{len(response.content)} characters in {response.usage.completion_tokens} tokens")
