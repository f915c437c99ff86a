"""Model directories and other formats."""
