"""Retries, rate limits and caches: of other libraries, and the client's own."""

from functools import lru_cache

from ratelimit import limits, sleep_and_retry
from tenacity import retry, stop_after_attempt, wait_exponential

from minimax import MemoryCache, MiniMaxM3, RateLimit

client = MiniMaxM3()


@retry(stop=stop_after_attempt(3), wait=wait_exponential(multiplier=1, min=2, max=10))
def robust_completion(prompt):
    return client.complete(prompt=prompt, max_tokens=8)


@sleep_and_retry
@limits(calls=100, period=60)
def rate_limited_completion(prompt):
    return client.complete(prompt=prompt, max_tokens=8)


@lru_cache(maxsize=1000)
def cached_completion(prompt, temperature):
    return client.complete(prompt=prompt, temperature=temperature, max_tokens=8)


for complete in (robust_completion, rate_limited_completion, lambda prompt: cached_completion(prompt, 0.5)):
    print(complete("The capital of France is").choices[0].text)

with MiniMaxM3(limits=RateLimit(calls=100, period_s=60), cache=MemoryCache()) as own:
    first, second = (own.complete("The capital of France is", temperature=1, max_tokens=8) for _ in range(2))
    print(f"asked once, answered twice: {first == second}")
