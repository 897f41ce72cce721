"""The system calls of an app: from its isolator to the program the kernel runs."""
