"""Execution engines, and the stage1 images that carry them."""
