"""Ask the default model about a file: fetched once, read through the engine, answered token by token."""

import sys
from pathlib import Path

from openm3 import hub
from openm3.engine.llm import LLM
from openm3.engine.output import Delta
from openm3.engine.params import SamplingParams

path = sys.argv[1] if len(sys.argv) > 1 else __file__
llm = LLM(hub.pull("default"))
question = f"{Path(path).read_text()}\nWhat does this program do?"
prompt = llm.encode_chat([{"role": "user", "content": question}])
request, events = llm.stream(prompt, SamplingParams(max_tokens=60))
for event in events:
    if isinstance(event, Delta):
        print(event.text, end="", flush=True)
print(f"\n({request.stats().num_prompt} tokens read in {request.stats().read_s:.1f} s)")
