"""MONAI places a voxel at the same millimetre."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from data_contracts.volume import CTVolume
from pipeline.imaging.metatensor import to_metatensor
from pipeline.imaging.nifti import write_nifti


@pytest.mark.slow
def test_monai_places_every_voxel_at_its_position_and_reads_the_same_from_nifti(tmp_path):
    from monai.transforms import LoadImage

    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0.1, 0.7], [0.9, 0.7, 0], [2.5, 0, 0]])
    affine[:3, 3] = (-120, -80, -300)
    volume = CTVolume(np.random.default_rng(0).integers(-1000, 1000, (4, 5, 6), dtype=np.int16), affine)
    tensor = to_metatensor(volume)
    assert tensor.shape == (1, 6, 5, 4)
    for k, j, i in ((0, 0, 0), (3, 1, 2), (2, 4, 5)):
        x_left, y_posterior, z_superior = volume.to_lps_mm(np.array([k, j, i]))
        ras_mm = tensor.affine.numpy() @ [i, j, k, 1]
        assert np.allclose(ras_mm[:3], (-x_left, -y_posterior, z_superior))
        assert float(tensor[0, i, j, k]) == volume.hu[k, j, i]
    write_nifti(tmp_path / "volume.nii", volume)
    loaded = LoadImage(image_only=True)(tmp_path / "volume.nii")
    assert np.array_equal(loaded.numpy(), tensor.numpy()[0])
    assert np.allclose(loaded.affine.numpy(), tensor.affine.numpy(), atol=1e-4)


def test_importing_the_step_does_not_import_monai_or_torch():
    code = "import sys, pipeline.imaging.metatensor; print('monai' in sys.modules or 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
