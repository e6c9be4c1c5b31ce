"""The systems of the recurrent-networks lecture (*Deep Learning*, chapter 10), one module a system."""
