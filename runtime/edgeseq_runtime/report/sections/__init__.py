"""The parts of the page, each from what was measured to markup."""
