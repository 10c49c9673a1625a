import sys
from pathlib import Path

for folder in (Path(__file__).parent, Path(__file__).parents[1] / "imaging"):  # for `attack_tools`, `films`
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
