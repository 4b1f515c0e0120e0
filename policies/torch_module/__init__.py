"""A network exported by torch, with a YAML of names. Empty, so that nothing here needs torch before it is asked for."""
