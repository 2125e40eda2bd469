"""Request, pages, scheduler, batch, runner, sampler, engine; `LLM` for offline use, `Service` for asyncio."""
