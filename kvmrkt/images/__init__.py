"""Finding, checking, storing and rendering images."""
