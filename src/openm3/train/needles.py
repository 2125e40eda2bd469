"""Key retrieval: a random key hidden in real text, asked for at the end."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from openm3.engine.llm import LLM
from openm3.train.reader import Reader

DEPTHS = (1.0, 0.75, 0.5, 0.25, 0.0)  # deep ones first: what lies before a key is read once for all


@dataclass(frozen=True)
class Form:
    """How a key is told and asked for.

    Attributes:
        told: a line among the text; `{key}` stands for the key.
        asked: the end of the prompt, behind the text.
    """

    told: str
    asked: str


# Of fifteen forms, the model's chat format among them, the default model does best with this one (LOG.md).
LINE = Form(told="Remember this: the pass key is {key}.", asked="Remember this: the pass key is")


@dataclass(frozen=True)
class Hidden:
    """A prompt of exactly the wanted length, the key's tokens behind it included.

    Attributes:
        ids: the tokens.
        num_answer: how many at the end are the key's.
    """

    ids: list[int]
    num_answer: int

    @property
    def places(self) -> range:
        """The places whose next tokens are the key's."""
        return range(len(self.ids) - self.num_answer - 1, len(self.ids) - 1)


def hide(llm: LLM, form: Form, text_ids: Sequence[int], length: int, depth: float, seed: int) -> Hidden:
    """Hides a key of five digits at a depth (0 is the beginning, 1 the end) of a text, between two of its lines.

    Raises:
        ValueError: the text is shorter than the length.
    """
    key = "".join(random.Random(seed).choices("123456789", k=5))
    told = llm.encode(f"\n\n{form.told.format(key=key)}\n\n")
    behind = llm.encode(f"\n\n{form.asked}")
    answer = llm.encode(" " + key)
    room = length - len(told) - len(behind) - len(answer)
    if not 0 < room <= len(text_ids):
        raise ValueError(f"length: {length} tokens can't hold the question and {len(text_ids)} tokens of text")
    cut = _line_end(llm, text_ids[:room], round(depth * room))
    ids = [*text_ids[:cut], *told, *text_ids[cut:room], *behind, *answer]
    return Hidden(ids, len(answer))


def found(reader: Reader, hidden: Hidden) -> bool:
    """Whether greedy decoding writes the key: every token of it is the likeliest after those before it."""
    likeliest = reader.logits(hidden.ids, hidden.places).argmax(-1).tolist()
    return bool(likeliest == hidden.ids[-hidden.num_answer :])


def _line_end(llm: LLM, ids: Sequence[int], wanted: int) -> int:
    """How many tokens lie before the last end of a line that isn't behind the wanted one, or before the first end."""

    def ends_line(i: int) -> bool:
        return b"\n" in llm.tokenizer.token_bytes(ids[i - 1])

    before = next((i for i in range(wanted, 0, -1) if ends_line(i)), None)
    return before or next((i for i in range(wanted + 1, len(ids)) if ends_line(i)), len(ids))
