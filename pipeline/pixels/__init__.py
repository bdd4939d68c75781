"""From the pixel data of a file to Hounsfield units: codecs, rescale, padding, plausibility."""
