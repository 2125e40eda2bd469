"""Which lines an answer was read from: `python examples/evidence.py [file ...]`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from openm3 import hub
from openm3.context.files import collect
from openm3.context.sources import SourceMap
from openm3.engine.llm import LLM
from openm3.engine.params import SamplingParams


def main(paths: list[str], question: str = "What does this file do?") -> None:
    hub.pull("default")
    llm, files = LLM("default"), collect(paths or [Path(__file__)])
    prompt = llm.encode_chat([{"role": "user", "content": f"{files.render()}\n{question}"}])
    sources = SourceMap.of_files(prompt.ids, llm.tokenizer.token_bytes, files)
    [answer] = llm.generate([replace(prompt, sources=sources)], SamplingParams(max_tokens=48, evidence=True))
    assert answer.evidence is not None
    for sentence in answer.evidence.sentences:
        print(sentence.text)
        for reference in sentence.references:
            print(f"    {reference} ({reference.weight:.0%})")


if __name__ == "__main__":
    main(sys.argv[1:])
