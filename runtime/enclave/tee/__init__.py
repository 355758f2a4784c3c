"""Evidence of this machine's own hardware: the CPU by the kernel, the GPUs by NVIDIA's driver."""
