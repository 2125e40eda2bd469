"""A completion, a chat, and code that is streamed."""

from minimax import MiniMaxM3

client = MiniMaxM3(timeout=120)

response = client.complete(
    prompt="Write a Python function to calculate fibonacci numbers:", max_tokens=48, temperature=0.7
)
print(f"Completion: {response.choices[0].text}")

chat_response = client.chat.completions.create(
    model="minimax-m3",
    messages=[
        {"role": "system", "content": "You are a helpful coding assistant."},
        {"role": "user", "content": "Explain the difference between list and tuple in Python."},
    ],
    temperature=0.3,
    top_p=0.9,
    max_tokens=48,
)
print(f"Chat response: {chat_response.choices[0].message.content}")

print("Streaming code generation:")
for chunk in client.generate(prompt="Create a FastAPI endpoint for user authentication:", stream=True, max_tokens=48):
    print(chunk.content, end="", flush=True)
print()
