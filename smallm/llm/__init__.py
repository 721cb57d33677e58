"""The LLM bridge: prompt, ask, remember, parse, align. It may fail; the local model then answers alone."""
