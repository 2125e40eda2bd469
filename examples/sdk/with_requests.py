"""The API without this package."""

import os

import requests

API_KEY = os.environ.get("MINIMAX_API_KEY", "your-api-key")
BASE_URL = os.environ.get("MINIMAX_BASE_URL", "http://127.0.0.1:8000/v1")

headers = {"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json"}
payload = {
    "model": "minimax-m3",
    "messages": [{"role": "user", "content": "Write a Python function to implement binary search"}],
    "max_tokens": 64,
    "temperature": 0.7,
}
response = requests.post(f"{BASE_URL}/chat/completions", headers=headers, json=payload)
print(response.json())
