"""Backends, one file each: the only files that import the library they stand for, themselves imported on demand."""
