"""Architecture search for sequence models in a space that a person can read and write."""

from pathlib import Path

__version__ = "0.1.0"

# In a checkout the sub-packages `nas.grammar`, `nas.kernels` and `nas.search_spaces` live beside
# this folder, not inside it; in a wheel they are inside it and nothing is appended.
_root = Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file() and (_root / "grammar").is_dir():
    __path__.append(str(_root))
