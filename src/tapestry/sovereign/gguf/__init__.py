"""GGUF, the format of llama.cpp: a model directory as one file, held against what it was made from."""
