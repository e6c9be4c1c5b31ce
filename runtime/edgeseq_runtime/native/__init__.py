"""Edgeseq's own kernels: a library in C that is compiled where it runs, and what makes programs for it."""
