"""A reviewed study as DICOM objects: segmentation, measurement report, key images, encapsulated report."""
