"""`edgeseq selftest`: whether this machine has what a device needs, and whether a bundle computes there what PyTorch computes."""

from edgeseq_runtime.selftest.checks import Check
from edgeseq_runtime.selftest.page import selftest_page
from edgeseq_runtime.selftest.run import SelfTest, Step, builtin_bundle, run_selftest

__all__ = ["Check", "SelfTest", "Step", "builtin_bundle", "run_selftest", "selftest_page"]
