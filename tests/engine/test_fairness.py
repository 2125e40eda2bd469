"""Who gets how much of the engine, and how long others wait, in figures."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from openm3.config import EngineConfig, SparseConfig
from openm3.engine.fairness import FairQueue, Share
from openm3.engine.output import FinishReason
from openm3.engine.pages import PagePool
from openm3.engine.params import SamplingParams
from openm3.engine.request import Request, State
from openm3.engine.scheduler import Scheduler

PAGE = 16
PLUS, MAX = Share("plus", 1.0), Share("max", 4.0)
CONFIG = EngineConfig(
    sparse=SparseConfig(index_block_size=PAGE),
    max_running=8,
    prefill_chunk=32,
    max_batch_tokens=64,
    prefix_cache=False,
    speculation="off",
)


def request(share: Share, num_prompt: int, max_tokens: int) -> Request:
    return Request("r", [1] * num_prompt, SamplingParams(seed=0), max_tokens, share=share)


class Crowd:
    """A scheduler, and a step's tokens by share."""

    def __init__(self, num_pages: int = 1000) -> None:
        self.scheduler = Scheduler(CONFIG, PagePool(num_pages, PAGE))
        self.computed: Counter[str] = Counter()
        self.num_steps = 0

    def add(self, share: Share, num_prompt: int, max_tokens: int) -> Request:
        new = request(share, num_prompt, max_tokens)
        self.scheduler.add(new)
        return new

    def step(self) -> None:
        self.num_steps += 1
        for chunk in self.scheduler.schedule():
            self.computed[chunk.request.share.name] += chunk.stop - chunk.start
            self.scheduler.commit(chunk.request, chunk.stop)
            if chunk.completes:
                chunk.request.output_ids.append(2)
                if len(chunk.request.output_ids) == chunk.request.max_tokens:
                    self.scheduler.finish(chunk.request, FinishReason.LENGTH)
        self.scheduler.check()

    def steps_until_first_token(self, asked: Request) -> int:
        begin = self.num_steps
        while not asked.output_ids:
            self.step()
        return self.num_steps - begin


def test_tokens_are_as_the_weights_while_both_wait() -> None:
    """Whatever either asks for: Max has short questions and Plus long ones, or the other way round."""
    for plus, most in (((60, 40), (60, 40)), ((200, 5), (20, 50)), ((20, 50), (200, 5))):
        crowd = Crowd()
        for _ in range(400):
            crowd.add(PLUS, *plus)
        for _ in range(1600):
            crowd.add(MAX, *most)
        for _ in range(400):
            crowd.step()
        assert 3.6 < crowd.computed["max"] / crowd.computed["plus"] < 4.4, crowd.computed


def test_max_is_first_behind_any_queue_of_plus() -> None:
    """Behind 300 requests of Plus that wait: 3 to 50 steps, until a running one ends. In its own plan: over 1,000."""
    waits = {}
    for share in (MAX, Share("plus", 1.0), Share("another plus", 1.0)):
        crowd = Crowd()
        for _ in range(300):
            crowd.add(PLUS, 40, 40)
        for _ in range(20):
            crowd.step()
        waits[share.name] = crowd.steps_until_first_token(crowd.add(share, 40, 40))
    assert waits["max"] <= 50
    assert waits["another plus"] <= 60, "keys of one plan don't wait for one another's queues either"
    assert waits["plus"] > 1000


def test_plus_does_not_starve_under_a_flood_of_max() -> None:
    crowd = Crowd()
    flood = [crowd.add(MAX, 40, 40) for _ in range(500)]
    for _ in range(20):
        crowd.step()
    asked = crowd.add(PLUS, 40, 40)
    assert crowd.steps_until_first_token(asked) <= 60
    while asked.state is not State.FINISHED:
        crowd.step()
    assert sum(each.state is not State.FINISHED for each in flood) > 400, "the flood is still there"


def test_a_long_prompt_of_plus_is_read_beside_those_of_max() -> None:
    """A prompt of 6,400 tokens is being read when Max asks: Max is read first, and Plus goes on beside the flood."""
    crowd = Crowd()
    long = crowd.add(PLUS, 6400, 1)
    for _ in range(10):
        crowd.step()
    before = long.num_computed
    assert crowd.steps_until_first_token(crowd.add(MAX, 64, 1)) <= 3
    flood = [crowd.add(MAX, 320, 1) for _ in range(200)]
    crowd.steps_until_first_token(long)
    assert before < 6400
    assert sum(each.state is State.FINISHED for each in flood) < 200


def test_nobody_saves_up_while_away() -> None:
    queue = FairQueue()
    first = request(PLUS, 1, 1)
    queue.add(first)
    queue.charge(first, 1000)
    late = request(MAX, 1, 1)
    queue.add(late)
    assert queue.time(late) == queue.time(first) == 1000
    assert queue.first([]) is late, "more weight first, where times are the same"
    queue.charge(late, 400)
    assert queue.first([]) is first
    queue.remove(first)
    queue.leave(first)
    again = request(PLUS, 1, 1)
    queue.add(again)
    assert queue.time(again) == 1100, "it comes back where the others are"
    for each in (late, again):
        queue.remove(each)
        queue.leave(each)
    queue.add(fresh := request(PLUS, 1, 1))
    assert queue.time(fresh) == 0, "when nobody is left, all begin anew"


@settings(max_examples=50)
@given(
    st.lists(st.sampled_from([0.1, 1.0, 2.0, 8.0]), min_size=2, max_size=5),
    st.lists(st.tuples(st.integers(1, 150), st.integers(1, 30)), min_size=2, max_size=6),
)
def test_no_share_falls_behind_by_more_than_what_runs(weights: list[float], sizes: list[tuple[int, int]]) -> None:
    """While all wait, and however the sizes of requests fall."""
    crowd, shares = Crowd(), [Share(f"s{i}", weight) for i, weight in enumerate(weights)]
    for share in shares:
        for i in range(120):
            crowd.add(share, *sizes[i % len(sizes)])
    biggest = max(prompt + answer for prompt, answer in sizes)
    for _ in range(60):
        crowd.step()
        if len({request.share for request in crowd.scheduler.waiting}) < len(shares):
            break
        times = [crowd.computed[share.name] / share.weight for share in shares]
        assert max(times) - min(times) <= CONFIG.max_running * biggest / min(weights)
