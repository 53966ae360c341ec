"""The Salt kit: from a competition's download to a scored submission. Importing it loads nothing heavy."""

__version__ = "0.1.0"
