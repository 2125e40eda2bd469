"""JSON in, JSON out: objects of one's own in the prompt, and an answer that parses."""

import json
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

from minimax import MiniMaxM3


@dataclass
class Node:
    name: str
    children: list["Node"]


def custom_encoder(obj: Any) -> Any:
    """Encodes what JSON doesn't know."""
    if is_dataclass(obj) and not isinstance(obj, type):
        return asdict(obj)
    raise TypeError(f"{type(obj)} is not JSON serializable")


response = MiniMaxM3().complete(
    prompt={"task": "Analyze this data structure, in JSON.", "data": Node("root", [Node("leaf", [])])},
    response_format={"type": "json_object"},
    json_encoder=custom_encoder,
    max_tokens=64,
)
choice = response.choices[0]
print(json.loads(choice.text) if choice.finish_reason == "stop" else f"cut by max_tokens: {choice.text}")
