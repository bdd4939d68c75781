"""Write a fresh set of trap series with their truth: python tests/make_traps.py OUT --seed N --count M [--kinds K ...].

OUT/<case>/ holds the DICOM files of one case, OUT/<case>.truth.npz its truth, OUT/cases.json what is wanted of each.
Windows of real CTs are used where ../shared/data stands beside the repository, or where --real names such a folder.
"""

from __future__ import annotations

import argparse
import sys
import tarfile
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from trap_generator import write_set
from trap_kinds import KINDS
from trap_series import real_sources

_DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "dicom"


def main(arguments: list[str] | None = None) -> int:
    """Entry of the command line."""
    parser = argparse.ArgumentParser(description="Write trap series with their truth.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=len(KINDS))
    parser.add_argument("--kinds", nargs="*", choices=sorted(KINDS), default=[])
    parser.add_argument("--real", type=Path, default=_DATA, help="folder of archives of real CTs")
    parser.add_argument("--large", action="store_true", help="planes of up to 160 x 160 pixels in place of 44 x 44")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as unpacked:
        for name in ("traps", "LIDC-IDRI-0001", "Lung_Dx-A0002"):
            archive = given.real / f"{name}.tar.xz"
            if archive.is_file():
                with tarfile.open(archive) as members:
                    members.extractall(unpacked, filter="data")
        sources = real_sources(Path(unpacked))
        drafts = write_set(given.out, given.seed, given.count, given.kinds, sources, small=not given.large)
    print(f"{len(drafts)} cases of {len({name[4:] for name in drafts})} kinds below {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
