"""Every recipe run, measured, exported and proved, and the page that shows it: `make gallery`."""
