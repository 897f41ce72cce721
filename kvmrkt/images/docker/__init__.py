"""Docker and OCI images: from a registry, a layout or an archive to an App Container image."""
