"""The jail that QEMU runs in: a process that is taken over has its own pod, and nothing else."""
