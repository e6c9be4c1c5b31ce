"""The operators that programs are written of, a family a file."""
