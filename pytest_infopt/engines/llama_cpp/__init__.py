"""GGUF files in llama.cpp's own kernels, in process."""
