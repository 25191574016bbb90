"""porter takes large language models off the hardware they were made for."""

__version__ = "0.1.0"
