"""A run leaves the house: merged weights, GGUF, Ollama, vLLM, a plain adapter; each proved equal."""
