"""The primitives of the spaces: importing this package fills `nas.layers.base.PRIMITIVES`."""
