"""Size and type of a nodule: outline on a cube of HU, axes, solid part."""
