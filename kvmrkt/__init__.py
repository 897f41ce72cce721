"""kvmrkt runs App Container pods, each in a virtual machine of its own."""

__version__ = "0.1.0"
APPC_VERSION = "0.8.11"
