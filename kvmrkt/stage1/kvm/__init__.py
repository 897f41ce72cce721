"""The KVM engine: a virtual machine for each pod."""
