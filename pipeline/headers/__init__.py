"""What a DICOM header says: read from the first bytes of a file, each value checked on its own."""
