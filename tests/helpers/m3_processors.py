"""What transformers' image and video processors of M3 make of a few pixels, recorded in `tests/model/data`.

They need torchvision, which the tests do without, as its wheels fit only some builds of torch. Where it is there,
`python tests/helpers/m3_processors.py` in the root of the repository writes the file anew.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

RECORD = Path(__file__).parents[1] / "model" / "data" / "m3_processors.json"
# frames, height, width, and the limits of pixels for each frame
IMAGES = [(56, 56, 3136, 451_584), (61, 45, 3136, 451_584), (20, 150, 3136, 451_584), (301, 203, 3136, 20_000)]
VIDEOS = [(1, 60, 60, 3136, 602_112), (5, 40, 70, 3136, 602_112), (10, 90, 130, 3136, 8000)]


def pixels(*shape: int) -> Tensor:
    """Colours (uint8) that are nowhere alike, without a generator whose numbers could change."""
    places = torch.meshgrid(*(torch.arange(size) for size in shape), indexing="ij")
    mixed = sum((7 + 6 * i) * place for i, place in enumerate(places)) + places[-1] * places[-2] // 5
    return (mixed % 256).to(torch.uint8)


def fingerprint(values_NP: Tensor) -> Tensor:
    """One number for each patch, which nearly any change of its values changes."""
    weights = torch.cos(torch.arange(values_NP.shape[1], dtype=torch.float64) + 1)
    return values_NP.double() @ weights


def record() -> dict[str, Any]:
    from transformers.models.minimax_m3_vl import image_processing_minimax_m3_vl as images
    from transformers.models.minimax_m3_vl import video_processing_minimax_m3_vl as videos
    from transformers.models.minimax_m3_vl.processing_minimax_m3_vl import MiniMaxM3VLProcessor

    image_processor, video_processor = images.MiniMaxM3VLImageProcessor(), videos.MiniMaxM3VLVideoProcessor()
    chosen = random.Random(0)
    sizes = [(chosen.randint(1, 60), chosen.randint(1, 3000)) for _ in range(40)]
    sizes += [(chosen.randint(1, 5000), chosen.randint(1, 5000)) for _ in range(60)]
    found: dict[str, Any] = {"sizes": [], "images": [], "videos": []}
    for height, width in sizes:
        for limit in (451_584, 602_112, 12_845_056):
            if max(height, width) <= 200 * min(height, width):
                size = images.smart_resize(height, width, 28, 3136, limit)
                found["sizes"].append([height, width, limit, *size])
    for height, width, least, most in IMAGES:
        size = {"shortest_edge": least, "longest_edge": most}
        out = image_processor([pixels(3, height, width)], size=size, return_tensors="pt")
        found["images"].append(_summary(out["pixel_values"], out["image_grid_thw"]))
    processor = object.__new__(MiniMaxM3VLProcessor)  # for its wording alone, which needs no tokenizer
    processor.video_processor = video_processor
    for frames, height, width, least, most in VIDEOS:
        video = pixels(frames, 3, height, width)
        out = video_processor([video], min_pixels=least, max_pixels=most, return_tensors="pt")
        metadata = type("Metadata", (), {"fps": 4.0, "frames_indices": [3 * i for i in range(frames)]})
        text = processor.replace_video_token({**out, "video_metadata": [metadata]}, 0)
        found["videos"].append({**_summary(out["pixel_values_videos"], out["video_grid_thw"]), "text": text})
    return found


def _summary(values_NP: Tensor, grids: Tensor) -> dict[str, Any]:
    return {"grids": grids.tolist(), "fingerprint": [round(value, 5) for value in fingerprint(values_NP).tolist()]}


if __name__ == "__main__":
    RECORD.write_text(json.dumps(record()) + "\n")
