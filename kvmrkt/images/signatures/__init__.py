"""Who may vouch for an image: OpenPGP keys and signatures, and the gate images pass."""
