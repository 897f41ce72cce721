"""The names of the agent's virtio-serial ports (`docs/protocol.md`)."""

CONTROL_PORT = "kvmrkt.control"
LOG_PORT = "kvmrkt.log"
EXPORT_PORT = "kvmrkt.export"
SSH_PORT = "kvmrkt.ssh"
