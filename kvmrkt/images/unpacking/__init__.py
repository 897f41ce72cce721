"""Images out of the store again, as files for a person."""
