"""Reviews files at the same time, streams, and completes a batch."""

import asyncio

from minimax import AsyncMiniMaxM3

FILES = {
    "src/models.py": "import os, sys\n\n\ndef load(path):\n    return eval(open(path).read())\n",
    "src/views.py": "def index(request):\n    return 'hello'\n",
    "src/utils.py": "import hashlib\n\n\ndef digest(data):\n    return hashlib.md5(data).hexdigest()\n",
    "src/handlers.py": "def handle(event, seen=[]):\n    seen.append(event)\n    return seen\n",
}


async def main() -> None:
    async with AsyncMiniMaxM3(max_connections=100, max_keepalive_connections=20) as client:
        standards = ["pep8", "security", "performance"]
        reviews = await asyncio.gather(*(client.review_code(code=code, standards=standards) for code in FILES.values()))
        for path, review in zip(FILES, reviews, strict=True):
            print(f"=== {path}: {len(review.issues)} issues, quality {review.quality_score}/100")
            for issue in review.issues:
                print(f"  line {issue.line}: {issue.severity}: {issue.message} [{issue.rule}]")

        prompt = "Write a complete Django REST API with authentication:"
        async for chunk in client.generate(prompt=prompt, stream=True, max_tokens=32):
            print(chunk.content, end="", flush=True)

        tasks = [
            {"prompt": "Explain closures in JavaScript", "max_tokens": 16},
            {"prompt": "Explain closures in Python", "max_tokens": 16},
            {"prompt": "Compare closures in JS vs Python", "max_tokens": 24},
        ]
        for result in await client.batch_complete(tasks):
            print(f"\nTask result: {result.choices[0].text[:100]}...")


asyncio.run(main())
