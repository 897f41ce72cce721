"""Pods on disk: directory, states, locks, resources, garbage."""
