"""Decode the pixels of one DICOM file with GDCM and write them to standard output.

Run as a script in a process of its own, because GDCM aborts its process on corrupt data;
nothing of `cxr` is imported, so that starting it takes a few hundredths of a second.
"""

from __future__ import annotations

import sys

import gdcm


def main() -> int:
    """Decode `sys.argv[1]`; 0 done, 3 unreadable."""
    reader = gdcm.ImageReader()
    reader.SetFileName(sys.argv[1])
    if not reader.Read():
        return 3
    sys.stdout.buffer.write(reader.GetImage().GetBuffer().encode("utf-8", errors="surrogateescape"))
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
