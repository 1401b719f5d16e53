"""resident.cu on a CPU: what it needs of CUDA, a library around it, and its launcher."""
