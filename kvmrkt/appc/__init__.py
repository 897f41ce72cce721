"""The App Container types and manifests: pure data and rules, no I/O."""
