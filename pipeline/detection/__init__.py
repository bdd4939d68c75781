"""Where a chest may hold nodules: blobs of the lungs, a learned head that tells nodules from vessels, FROC."""
