"""The merge's arithmetic, exactly as docs/formats/merge.md defines it. torch, no I/O."""
