"""What is done: pure steps on one series, one cohort, one report.

    intake    discover, check, de-identify and decode DICOM; read annotations
    imaging   NIfTI, resampling, windows, lungs, patches
    cohort    splits, consensus of readers, datasets, importers, the phantom
    scoring   figures with intervals, late fusion, the size baseline, gates
    review    measurements, key images, pages, feedback

Steps take records and parameters and return records. They know no orchestrator, no tracker and no
environment.
"""
