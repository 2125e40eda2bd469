"""Read files once, then search them and ask about them: the second question costs only its own tokens."""

import sys

from openm3 import hub
from openm3.context.manager import ContextManager
from openm3.engine.llm import LLM
from openm3.engine.params import SamplingParams

context = ContextManager(LLM(hub.pull("default")))
print(context.read(sys.argv[1:] or [__file__]), "tokens read")
for found in context.retrieve("what a second question costs", k=64):
    print(*(f"{source.path}:{source.first_line}-{source.last_line}" for source in found.sources if source.path))
for question in ("What does this program do?", "Which class does it use?"):
    answer = context.ask(question, SamplingParams(max_tokens=40))
    print(f"{answer.text}\n({answer.stats.num_cached} of {answer.stats.num_prompt} tokens known from before)")
